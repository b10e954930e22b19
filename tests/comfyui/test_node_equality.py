"""Runs the embedded engine's nodes beside a real ComfyUI's, on the same pictures."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    Cases = Iterator[tuple[str, dict[str, Any]]]

HOME = os.environ.get("COMFY_HOME")
PYTHON = os.environ.get("COMFY_PYTHON", sys.executable)
BOOT_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 30.0

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(HOME is None, reason="COMFY_HOME does not name a ComfyUI"),
    pytest.mark.timeout(180),
]

# What stands for an input in the cases below: a node of the graph and its output.
IMAGE, OTHER, CLEAR, BATCH, MASK, OTHER_MASK = ([name, 0] for name in "abcdmn")
METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
BLENDS = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")
DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")
ROTATIONS = ("none", "90 degrees", "180 degrees", "270 degrees")
FLIPS = ("x-axis: vertically", "y-axis: horizontally")
OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")
CHANNELS = ("red", "green", "blue", "alpha")
PADS = {"left": 16, "top": 8, "right": 0, "bottom": 24}
OUTPUTS = {
    "LoadImage": ["IMAGE", "MASK"],
    "LoadImageOutput": ["IMAGE", "MASK"],
    "ImagePadForOutpaint": ["IMAGE", "MASK"],
    "SplitImageWithAlpha": ["IMAGE", "MASK"],
    "GetImageSize": ["INT", "INT", "INT"],
}
SAVERS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG")
MASK_NODES = (
    *("LoadImageMask", "ImageToMask", "ImageColorToMask", "SolidMask", "InvertMask", "CropMask"),
    *("MaskComposite", "FeatherMask", "GrowMask", "ThresholdMask"),
)


def loaders() -> Cases:
    """Nodes that read files."""
    for name in ("random.png", "random_alpha.png", "palette.gif", "rotated.jpg", "grey16.png"):
        yield "LoadImage", {"image": name}
    for channel in CHANNELS:
        yield "LoadImageMask", {"image": "random_alpha.png", "channel": channel}
        yield "ImageToMask", {"image": CLEAR, "channel": channel}
    yield "LoadImageOutput", {"image": "random.png [input]"}
    yield "EmptyImage", {"width": 33, "height": 17, "batch_size": 2, "color": 0x12AB9F}


def scales() -> Cases:
    """Nodes that resize."""
    for method in METHODS:
        for width, height, crop in (
            (64, 0, "disabled"),
            (31, 90, "center"),
            (200, 150, "disabled"),
        ):
            size = {"width": width, "height": height, "crop": crop}
            yield "ImageScale", {"image": IMAGE, "upscale_method": method, **size}
        for factor in (0.37, 1.0, 2.6):
            yield "ImageScaleBy", {"image": OTHER, "upscale_method": method, "scale_by": factor}
        yield (
            "ImageScaleToTotalPixels",
            {"image": IMAGE, "upscale_method": method, "megapixels": 0.03},
        )


def moves() -> Cases:
    """Nodes that move pixels around."""
    for width, height, x, y in ((20, 10, 5, 7), (500, 500, 30, 20), (8, 8, 4000, 4000)):
        yield "ImageCrop", {"image": IMAGE, "width": width, "height": height, "x": x, "y": y}
    yield "ImageInvert", {"image": IMAGE}
    yield "ImageBatch", {"image1": IMAGE, "image2": OTHER}
    yield "ImageFromBatch", {"image": BATCH, "batch_index": 1, "length": 5}
    yield "RepeatImageBatch", {"image": IMAGE, "amount": 2}
    yield "RebatchImages", {"images": BATCH, "batch_size": 2}
    for feathering in (0, 9, 4000):
        yield "ImagePadForOutpaint", {"image": IMAGE, "feathering": feathering, **PADS}


def effects() -> Cases:
    """Nodes that change colours."""
    for mode in BLENDS:
        for second in (OTHER, CLEAR):
            inputs = {"image1": IMAGE, "image2": second, "blend_factor": 0.6, "blend_mode": mode}
            yield "ImageBlend", inputs
    for radius, sigma in ((1, 1.0), (5, 0.4), (12, 3.0)):
        yield "ImageBlur", {"image": IMAGE, "blur_radius": radius, "sigma": sigma}
        sharpen = {"image": IMAGE, "sharpen_radius": radius, "sigma": sigma, "alpha": 0.7}
        yield "ImageSharpen", sharpen
    for dither in DITHERS:
        yield "ImageQuantize", {"image": IMAGE, "colors": 7, "dither": dither}


def composites() -> Cases:
    """Nodes that put pictures together."""
    for x, y, resize, mask in ((3, 5, False, None), (60, 40, False, MASK), (0, 0, True, MASK)):
        inputs = {"destination": IMAGE, "source": OTHER, "x": x, "y": y, "resize_source": resize}
        yield "ImageCompositeMasked", inputs if mask is None else {**inputs, "mask": mask}
    yield (
        "ImageCompositeMasked",
        {"destination": IMAGE, "source": CLEAR, "x": 1, "y": 2, "resize_source": False},
    )
    for flip in FLIPS:
        yield "ImageFlip", {"image": IMAGE, "flip_method": flip}
    for rotation in ROTATIONS:
        yield "ImageRotate", {"image": IMAGE, "rotation": rotation}
    for direction, match, color in (
        ("right", True, "white"),
        ("down", True, "red"),
        ("left", False, "black"),
        ("up", False, "blue"),
    ):
        stitch = {"direction": direction, "match_image_size": match, "spacing_color": color}
        for second in (OTHER, CLEAR):
            yield (
                "ImageStitch",
                {"image1": IMAGE, "image2": second, "spacing_width": 3, **stitch},
            )
    yield "GetImageSize", {"image": IMAGE}


def masks() -> Cases:
    """Nodes for masks."""
    yield "MaskToImage", {"mask": MASK}
    yield "ImageColorToMask", {"image": ["flat", 0], "color": 0x12AB9F}
    yield "SolidMask", {"value": 0.3, "width": 20, "height": 10}
    yield "InvertMask", {"mask": MASK}
    yield "CropMask", {"mask": MASK, "x": 3, "y": 4, "width": 20, "height": 900}
    for operation in OPERATIONS:
        for x, y in ((0, 0), (20, 11)):
            masks = {"destination": MASK, "source": OTHER_MASK, "x": x, "y": y}
            yield "MaskComposite", {**masks, "operation": operation}
    yield "FeatherMask", {"mask": MASK, **PADS}
    for expand in (-3, 0, 4):
        for tapered in (True, False):
            yield "GrowMask", {"mask": MASK, "expand": expand, "tapered_corners": tapered}
    yield "ThresholdMask", {"mask": MASK, "value": 0.4}
    yield "JoinImageWithAlpha", {"image": IMAGE, "alpha": MASK}
    yield "JoinImageWithAlpha", {"image": IMAGE, "alpha": OTHER_MASK}
    yield "SplitImageWithAlpha", {"image": ["joined", 0]}


def savers() -> Cases:
    """Nodes that save, and plain values."""
    yield "SaveImage", {"images": BATCH, "filename_prefix": "saved"}
    yield "PreviewImage", {"images": CLEAR}
    for lossless in (True, False):
        webp = {"fps": 7.0, "lossless": lossless, "quality": 80, "method": "default"}
        yield "SaveAnimatedWEBP", {"images": BATCH, "filename_prefix": "webp", **webp}
    apng = {"filename_prefix": "apng", "fps": 7.0, "compress_level": 4}
    yield "SaveAnimatedPNG", {"images": BATCH, **apng}
    yield "PrimitiveString", {"value": "a text"}
    yield "PrimitiveStringMultiline", {"value": "a\ntext"}
    yield "PrimitiveInt", {"value": -7}
    yield "PrimitiveFloat", {"value": 0.1}
    yield "PrimitiveBoolean", {"value": True}
    yield "StringConcatenate", {"string_a": "a", "string_b": "b", "delimiter": "--"}


GROUPS = (loaders, scales, moves, effects, composites, masks, savers)
CASES = [case for group in GROUPS for case in group()]
SOURCES: dict[str, Any] = {
    "a": {"class_type": "LoadImage", "inputs": {"image": "random.png"}},
    "b": {"class_type": "LoadImage", "inputs": {"image": "other.png"}},
    "join": {"class_type": "LoadImageMask", "inputs": {"image": "other.png", "channel": "red"}},
    "c": {"class_type": "JoinImageWithAlpha", "inputs": {"image": OTHER, "alpha": OTHER_MASK}},
    "d": {"class_type": "LoadImage", "inputs": {"image": "moving.webp"}},
    "m": {"class_type": "LoadImageMask", "inputs": {"image": "random.png", "channel": "green"}},
    "n": {"class_type": "LoadImageMask", "inputs": {"image": "other.png", "channel": "blue"}},
    "flat": {
        "class_type": "EmptyImage",
        "inputs": {"width": 9, "height": 9, "batch_size": 1, "color": 0x12AB9F},
    },
    "joined": {"class_type": "JoinImageWithAlpha", "inputs": {"image": IMAGE, "alpha": MASK}},
}


def graph_of(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Build the graph that runs one node and shows all its outputs."""
    graph = {"node": {"class_type": name, "inputs": dict(inputs)}}
    pending = [value for value in inputs.values() if isinstance(value, list)]
    while pending:
        source = pending.pop()[0]
        graph[source] = SOURCES[source]
        links = SOURCES[source]["inputs"].values()
        pending += [value for value in links if isinstance(value, list)]
    if name in SAVERS:
        return graph
    kinds = OUTPUTS.get(name) or (["MASK"] if name in MASK_NODES else ["IMAGE"])
    if name.startswith(("Primitive", "String")):
        kinds = ["VALUE"]
    for slot, kind in enumerate(kinds):
        link: list[Any] = ["node", slot]
        if kind == "MASK":
            graph[f"grey{slot}"] = {"class_type": "MaskToImage", "inputs": {"mask": link}}
            link = [f"grey{slot}", 0]
        if kind in ("IMAGE", "MASK"):
            inputs = {"images": link, "filename_prefix": "out"}
            graph[f"show{slot}"] = {"class_type": "SaveImage", "inputs": inputs}
        else:
            graph[f"show{slot}"] = {"class_type": "PreviewAny", "inputs": {"source": link}}
    return graph


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that runs."""

    client: httpx.Client
    input_dir: Path

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Run a graph and give its history entry."""
        answer = self.client.post("/prompt", json={"prompt": graph})
        assert answer.status_code == 200, answer.text
        prompt_id = answer.json()["prompt_id"]
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while time.monotonic() < deadline:
            found = self.client.get(f"/history/{prompt_id}").json()
            if found:
                return found[prompt_id]
            time.sleep(0.005)
        raise TimeoutError(prompt_id)

    def shown(self, entry: dict[str, Any]) -> dict[str, list[Any]]:
        """Fetch what a run shows by node: pictures as arrays of frames, texts as they are."""
        return {
            node_id: [self._fetched(item) for item in ui.get("images", ui.get("text", []))]
            for node_id, ui in entry["outputs"].items()
        }

    def _fetched(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        answer = self.client.get("/view", params=item)
        assert answer.status_code == 200
        with Image.open(BytesIO(answer.content)) as picture:
            frames = []
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                frames.append(np.asarray(picture.convert("RGBA")).astype(np.float64))
        return np.stack(frames)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(command: list[str], cwd: Path, base: Path) -> Iterator[Server]:
    """Start an engine as a child process, and end it."""
    port = free_port()
    folders = [base / kind for kind in ("input", "output", "temp")]
    for folder in folders:
        folder.mkdir(parents=True)
    flags = [f"--{folder.name}-directory={folder}" for folder in folders]
    listen = ["--listen", "127.0.0.1", "--port", str(port)]
    common = ["--cpu", "--disable-auto-launch", *listen, *flags]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen([*command, *common], cwd=cwd, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(client, process, base / "log")
            yield Server(client, folders[0])
    finally:
        process.terminate()
        process.wait(10)


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an engine answers."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            client.get("/system_stats")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = Path(HOME or "")
    command = [PYTHON, "main.py", "--disable-api-nodes"]
    yield from started(command, home, tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "local_server.engine"]
    root = Path(__file__).parents[2]
    yield from started(command, root, tmp_path_factory.mktemp("embedded"))


def make_inputs(folder: Path, seed: int) -> None:
    """Write random pictures of random sizes in several formats."""
    rng = np.random.default_rng(seed)

    def noise(channels: int, smooth: bool = True) -> Image.Image:
        height, width = rng.integers(40, 120, 2)
        coarse = rng.integers(0, 256, (height // 4, width // 4, channels), np.uint8)
        small = Image.fromarray(coarse)
        return small.resize((int(width), int(height))) if smooth else small

    noise(3).save(folder / "random.png")
    noise(3, smooth=False).save(folder / "other.png")
    noise(4).save(folder / "random_alpha.png")
    noise(3).quantize(16).save(folder / "palette.gif", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(2, 9))
    noise(3).save(folder / "rotated.jpg", exif=exif)
    grey = rng.integers(0, 65536, (30, 50)).astype(np.uint16)
    Image.fromarray(grey).save(folder / "grey16.png")
    frames = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(3)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_node_gives_what_comfyui_gives(seed: int, comfyui: Server, embedded: Server) -> None:
    """Each node's outputs differ from ComfyUI's by at most 1/255 on average."""
    make_inputs(comfyui.input_dir, seed)
    make_inputs(embedded.input_dir, seed)
    faults = []
    for name, inputs in CASES:
        graph = graph_of(name, inputs)
        theirs, ours = comfyui.run(graph), embedded.run(graph)
        case = f"{name} {json.dumps(inputs)}"
        if not theirs["status"]["completed"] or not ours["status"]["completed"]:
            faults.append(f"{case}: {ends(theirs)} against {ends(ours)}")
            continue
        faults += [
            f"{case}: {fault}" for fault in differences(comfyui.shown(theirs), embedded.shown(ours))
        ]
    assert not faults, "\n".join(faults)


def ends(entry: dict[str, Any]) -> str:
    """Tell how a run ended."""
    event, data = entry["status"]["messages"][-1]
    return f"{event} {data.get('exception_message', '')!r}"


def differences(theirs: dict[str, list[Any]], ours: dict[str, list[Any]]) -> Iterator[str]:
    """Tell where two runs show other things."""
    if theirs.keys() != ours.keys():
        yield f"outputs of {sorted(theirs)} against {sorted(ours)}"
        return
    for node_id, shown in theirs.items():
        for index, (their, our) in enumerate(zip(shown, ours[node_id], strict=True)):
            if not isinstance(their, np.ndarray):
                if their != our:
                    yield f"{node_id}: {their!r} against {our!r}"
            elif their.shape != our.shape:
                yield f"{node_id}/{index}: {their.shape} against {our.shape}"
            elif np.abs(their - our).mean() > 1:
                yield f"{node_id}/{index}: {np.abs(their - our).mean():.2f} levels apart"


def test_every_node_of_the_embedded_engine_is_compared(embedded: Server) -> None:
    """Only nodes without a picture or value of their own, or with other noise, are left out."""
    named = {name for name, _ in CASES}
    nodes = set(embedded.client.get("/object_info").json())

    assert nodes - named == {"ImageAddNoise", "SaveImageWebsocket", "PreviewAny"}


def test_the_noise_has_comfyuis_spread(comfyui: Server, embedded: Server) -> None:
    """ImageAddNoise draws other numbers of the same distribution."""
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 0x808080},
        },
        "2": {
            "class_type": "ImageAddNoise",
            "inputs": {"image": ["1", 0], "seed": 5, "strength": 0.2},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "n"}},
    }
    theirs, ours = (server.shown(server.run(graph))["3"][0] for server in (comfyui, embedded))

    assert ours.shape == theirs.shape
    assert ours.mean() == pytest.approx(theirs.mean(), abs=1)
    assert ours.std() == pytest.approx(theirs.std(), abs=1)
