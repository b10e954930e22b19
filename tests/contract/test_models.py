"""Models by URL, as black boxes: in any input that lists a model folder, on both engines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from behaviour.driving import later, wait_phase
from contract.file_server import Trap
from contract.graphs import empty, fine, pictures, plain, recorded, refused, save
from contract.packs import install_pack
from live import COMFY_HOME, LiveServer, live_server
from sources.host import safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contract.file_server import FileServer

ENGINES = ["embedded", pytest.param("comfyui", marks=pytest.mark.comfyui)]
CHECKPOINT = "random_sd15.safetensors"
CATALOGUE = """
catalogue:
  the-thing:
    url: {url}
    folder: test_models
    filename: the_thing.safetensors
    aliases: [thing]
  the-boat:
    url: {url}
    folder: checkpoints
    filename: boat.safetensors
"""


@pytest.fixture(scope="module", params=ENGINES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, source: FileServer
) -> Iterator[LiveServer]:
    """Give a server with a models folder of its own and a node pack that lists models."""
    home = tmp_path_factory.mktemp(f"models-{request.param}")
    models = home / "models"
    env = {"URL_ALLOW_HOSTS": "127.0.0.1", "MODEL_DIR": str(models)}
    url = source.put("/catalogue", safetensors(500, seed=99), "application/octet-stream")
    (home / "manifest.yaml").write_text(CATALOGUE.format(url=url))
    if request.param == "comfyui":
        env["COMFY_ARGS"] = install_pack(home, models)
    with live_server(home, request.param, MANIFEST=str(home / "manifest.yaml"), **env) as running:
        yield running


def loading(thing: Any, prefix: str = "model") -> dict[str, Any]:
    """Give a graph whose picture has the colour of a model file's hash."""
    loader = {"class_type": "TestPackLoader", "inputs": {"thing": thing}}
    return {"m1": loader, "m2": save("m1", prefix)}


def color_of(content: bytes) -> tuple[int, ...]:
    """Give the colour that a loader makes of a file."""
    return tuple(hashlib.sha256(content).digest()[:3])


def colors(body: dict[str, Any]) -> list[Any]:
    """Give each picture's colour, allowing for the last bit."""
    return [picture.convert("RGB").getpixel((0, 0)) for picture in pictures(body)]


def assert_loaded(found: Any, content: bytes) -> None:
    """Compare with the colour of a file; ComfyUI cuts off what is behind the point."""
    assert max(abs(a - b) for a, b in zip(found, color_of(content), strict=True)) <= 1


def test_row_12_two_graphs_one_with_a_model_by_url(server: LiveServer, source: FileServer) -> None:
    """Two unconnected graphs give two files; one loads what lies behind a URL."""
    content = safetensors(300, seed=12)
    url = source.put("/row12.safetensors", content, "application/octet-stream")

    body = fine(server.prompt({**plain("plain"), **loading(url)}))

    assert (len(body["filenames"]), len(body["images"])) == (2, 2)
    assert_loaded(colors(body)[1], content)


def test_row_13_three_graphs_one_model_with_a_query(server: LiveServer, source: FileServer) -> None:
    """Three graphs and one model, by a URL as hubs give it."""
    content = safetensors(300, seed=13)
    source.put("/resolve/main/row13.safetensors", content, "application/octet-stream")
    url = source.url("/resolve/main/row13.safetensors?download=true")
    graph = {**plain("one"), "x1": empty(color=0xFF), "x2": save("x1", "two"), **loading(url)}

    body = fine(server.prompt(graph))

    assert (len(body["filenames"]), len(body["images"])) == (3, 3)
    assert_loaded(colors(body)[2], content)
    asked = [path for path, _ in source.asked if "row13" in path]
    fine(server.prompt(graph))
    assert [path for path, _ in source.asked if "row13" in path] == asked


def test_a_file_that_came_after_the_boot_is_loaded(server: LiveServer) -> None:
    """By its name, and by its path."""
    content = safetensors(300, seed=14)
    place = Path(server.env["MODEL_DIR"]) / "test_models" / "sub" / "late.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)

    for value in ("sub/late.safetensors", str(place)):
        assert_loaded(colors(fine(server.prompt(loading(value))))[0], content)


@pytest.mark.parametrize("name", ["the-thing", "thing", "the_thing.safetensors"])
def test_a_name_of_the_catalogue_is_loaded(server: LiveServer, name: str) -> None:
    """By name, alias and file name; it was not there before."""
    body = fine(server.prompt(loading(name)))

    assert_loaded(colors(body)[0], safetensors(500, seed=99))
    assert body["prompt"]["m1"]["inputs"]["thing"] == "the_thing.safetensors"


def test_a_model_that_cannot_be_had_is_told_at_its_input(
    server: LiveServer, source: FileServer
) -> None:
    """In comfyui-api's words; nothing is left behind."""
    page = source.put("/login.safetensors", b"<html>log in</html>", "text/html")
    for url in (source.url("/gone.safetensors"), page):
        answer = server.prompt(loading(url))

        body: dict[str, Any] = answer.json()
        assert answer.status_code == 400, body
        assert body["error"].startswith("Failed to process model for node m1: ")
        assert (body["location"], body["node_id"]) == ("prompt.m1.inputs.thing", "m1")
    left = [p.name for p in Path(server.env["MODEL_DIR"]).rglob("*") if "probe" in p.name]
    assert left == []


def test_models_on_their_way_hold_nobody_up(server: LiveServer) -> None:
    """More jobs than the engine has slots for wait for a silent source; each can be stopped."""
    ids = [f"slow-{number}" for number in range(4)]
    with Trap("127.0.0.1") as trap:
        url = f"http://127.0.0.1:{trap.port}/slow.safetensors"
        waiting = [later(server.prompt, loading(f"{url}?{name}"), id=name) for name in ids]
        for name in ids:
            wait_phase(server, name, "fetching")

        fine(server.prompt(plain("passes")))

        assert not any(answer.done() for answer in waiting)
        for name in ids:
            assert server.post("/interrupt", {"id": name}).json()["interrupted"] == "success"
        bodies = [answer.result(20).json() for answer in waiting]
    assert [body["code"] for body in bodies] == ["cancelled"] * len(ids)


def test_an_unknown_name_is_a_fault_with_near_ones(server: LiveServer) -> None:
    """Those of the catalogue among them."""
    graph: dict[str, Any]
    if server.engine == "comfyui":
        graph = recorded("txt2img")
        graph["4"]["inputs"]["ckpt_name"] = "the-boot"
    else:
        loader = {"class_type": "TestCheckpoint", "inputs": {"ckpt_name": "the-boot"}}
        graph = {"4": loader, "9": save("4")}

    body = refused(server.prompt(graph), 400, "invalid_workflow")

    assert body["location"] == "prompt.4.inputs.ckpt_name"
    assert body["details"][0]["type"] == "value_not_in_list"
    assert body["details"][0]["choices_near"] == ["the-boat"]


def test_a_text_that_is_a_url_is_no_model(server: LiveServer, source: FileServer) -> None:
    """A prefix, a prompt: whatever takes any text gets it as it is."""
    url = source.put("/text.safetensors", safetensors(5), "application/octet-stream")
    graph = plain("x")
    graph["2"]["_meta"] = {"title": url}
    graph["2"]["inputs"]["note"] = url

    fine(server.prompt(graph))

    assert not [path for path, _ in source.asked if path == "/text.safetensors"]


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_the_folder_behind_an_input_is_found_where_no_name_tells(
    server: LiveServer, source: FileServer
) -> None:
    """Many are empty; nothing but the model stays."""
    content = safetensors(300, seed=15)
    url = source.put("/odd.safetensors", content, "application/octet-stream")
    graph = {"1": {"class_type": "Opener", "inputs": {"thing": url}}, "2": save("1")}

    fine(server.prompt(graph))

    root = Path(server.env["MODEL_DIR"])
    assert [path.read_bytes() for path in (root / "oddities").iterdir()] == [content]
    assert not list(root.rglob("comfyfn-probe-*"))


@contextlib.contextmanager
def folder_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files, in ranges; give the URL."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_static("/", folder, follow_symlinks=True)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def open_port() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(open_port())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def lora(path: Path) -> None:
    """Write a LoRA of two small matrices for one layer of Stable Diffusion 1.5."""
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    shapes = {f"{key}.lora_down.weight": [4, 320], f"{key}.lora_up.weight": [320, 4]}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = shape[0] * shape[1] * 2
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\x00\x2c" * (at // 2))


@pytest.mark.comfyui
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_a_checkpoint_and_a_lora_by_url_on_a_real_comfyui(
    server: LiveServer, tmp_path: Path
) -> None:
    """In CheckpointLoaderSimple and LoraLoader; sampled, and the same again from the cache."""
    theirs = Path(COMFY_HOME) / "models" / "checkpoints" / CHECKPOINT
    if not theirs.is_file():
        pytest.skip(f"this ComfyUI has no {CHECKPOINT}")
    (tmp_path / "weights.safetensors").symlink_to(theirs)
    lora(tmp_path / "small.safetensors")
    graph = recorded("txt2img")
    (loader,) = [n for n, node in graph.items() if node["class_type"] == "CheckpointLoaderSimple"]
    with folder_server(tmp_path) as url:
        graph[loader]["inputs"]["ckpt_name"] = f"{url}/weights.safetensors"
        inputs = {"lora_name": f"{url}/small.safetensors", "model": [loader, 0]}
        inputs |= {"clip": [loader, 1], "strength_model": 1.0, "strength_clip": 1.0}
        graph["lora"] = {"class_type": "LoraLoader", "inputs": inputs}
        for node in graph.values():
            if node["class_type"] == "KSampler":
                node["inputs"]["model"] = ["lora", 0]
        body = fine(server.prompt(graph, id="by-url"))
        again = fine(server.prompt(graph, id="by-url-again"))

    assert [picture.size for picture in pictures(body)] == [(64, 64)]
    sent = body["prompt"][loader]["inputs"]["ckpt_name"]
    place = Path(server.env["MODEL_DIR"]) / "checkpoints" / sent
    assert place.stat().st_size == theirs.stat().st_size
    assert again["prompt"][loader]["inputs"]["ckpt_name"] == sent


# Loaders, with the folders that are empty in a new installation, and further inputs they need.
LOADERS = [
    ("CheckpointLoader", "ckpt_name", "checkpoints", {"config_name": "v1-inference.yaml"}),
    ("CheckpointLoaderSimple", "ckpt_name", "checkpoints", {}),
    ("unCLIPCheckpointLoader", "ckpt_name", "checkpoints", {}),
    ("LoraLoaderModelOnly", "lora_name", "loras", {"model": ["0", 0], "strength_model": 1.0}),
    ("DiffControlNetLoader", "control_net_name", "controlnet", {"model": ["0", 0]}),
    ("DualCLIPLoader", "clip_name1", "text_encoders", {"clip_name2": ..., "type": "sdxl"}),
    ("UNETLoader", "unet_name", "diffusion_models", {"weight_dtype": "default"}),
    ("CLIPLoader", "clip_name", "text_encoders", {"type": "stable_diffusion"}),
    ("TripleCLIPLoader", "clip_name1", "text_encoders", {"clip_name2": ..., "clip_name3": ...}),
    ("CLIPVisionLoader", "clip_name", "clip_vision", {}),
    ("VAELoader", "vae_name", "vae", {}),
    ("ControlNetLoader", "control_net_name", "controlnet", {}),
    ("StyleModelLoader", "style_model_name", "style_models", {}),
    ("GLIGENLoader", "gligen_name", "gligen", {}),
    ("UpscaleModelLoader", "model_name", "upscale_models", {}),
    ("PhotoMakerLoader", "photomaker_model_name", "photomaker", {}),
    ("ModelPatchLoader", "name", "model_patches", {}),
    ("AudioEncoderLoader", "audio_encoder_name", "audio_encoders", {}),
]


@pytest.mark.comfyui
@pytest.mark.timeout(120)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
@pytest.mark.parametrize(("class_type", "name", "folder", "more"), LOADERS)
def test_stock_loaders_open_what_lies_behind_a_url(
    server: LiveServer,
    source: FileServer,
    class_type: str,
    name: str,
    folder: str,
    more: dict[str, Any],
) -> None:
    """Noise is no model: it is the node that says so, as it has found and opened the file."""
    content = safetensors(64, seed=sum(map(ord, class_type)))
    url = source.put(f"/{class_type}.safetensors", content, "application/octet-stream")
    inputs = {key: url if value is ... else value for key, value in more.items()}
    loader = {"class_type": class_type, "inputs": {name: url, **inputs}}
    graph = {"1": loader, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    if "model" in more:
        graph["0"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": url}}

    answer = server.prompt(graph)

    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body.get("code")) in {(200, None), (500, "execution_error")}, body
    root = Path(server.env["MODEL_DIR"])
    found = [path for path in root.glob(f"{folder}/{class_type}-*") if path.is_file()]
    assert [path.read_bytes() for path in found] == [content]
    listed = server.get("/models").json()[folder]
    assert found[0].name in listed
