"""Where the warmup prompt comes from."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from worker import GRAPH, parts_in

from handler.engine.events import Started
from handler.errors import BootFailed, ExecutionFailed, InputFailed
from handler.settings import Settings
from handler.warmup import Warmup, warmup_payload

TEXT = json.dumps(GRAPH)


async def test_no_warmup_is_none(tmp_path):
    """Nothing is set by default."""
    assert await warmup_payload(Settings(), parts_in(tmp_path)) is None


@pytest.mark.parametrize("text", [TEXT, json.dumps({"prompt": GRAPH})])
async def test_a_graph_alone_and_a_payload_are_the_same(tmp_path, text):
    """comfyui-api takes the graph alone."""
    settings = Settings(warmup_json=text)
    assert await warmup_payload(settings, parts_in(tmp_path)) == {"prompt": GRAPH}


async def test_a_payload_keeps_its_other_keys(tmp_path):
    """Its conversion is warmed up as well."""
    payload = {"prompt": GRAPH, "convert_output": {"format": "webp"}}
    settings = Settings(warmup_json=json.dumps(payload))
    assert await warmup_payload(settings, parts_in(tmp_path)) == payload


async def test_a_file_is_read_at_each_boot(tmp_path):
    """And told by name when it is gone by then."""
    file = tmp_path / "warm.json"
    file.write_text(TEXT)
    settings, parts = Settings(warmup_file=file), parts_in(tmp_path)
    assert await warmup_payload(settings, parts) == {"prompt": GRAPH}
    file.unlink()
    with pytest.raises(BootFailed, match="WARMUP_PROMPT_FILE cannot be read"):
        await warmup_payload(settings, parts)


@contextlib.asynccontextmanager
async def served(text):
    """Serve a text as /warm.json; give the address before the path."""

    async def answer(request):
        return web.Response(text=text, status=200 if request.path == "/warm.json" else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_url_is_fetched_and_nothing_kept(tmp_path):
    """By the operator's own fetcher."""
    parts = parts_in(tmp_path)
    async with served(TEXT) as url:
        settings = Settings(warmup_url=f"{url}/warm.json")
        assert await warmup_payload(settings, parts) == {"prompt": GRAPH}
        with pytest.raises(InputFailed, match="404"):
            await warmup_payload(Settings(warmup_url=f"{url}/gone"), parts)
    assert list(parts.scratch.iterdir()) == []


async def test_a_url_is_fetched_while_the_engine_boots(tmp_path):
    """So that the models it names are read ahead; it is not fetched again."""
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.ckpt"}}}
    async with served(json.dumps(graph)) as url:
        parts = parts_in(tmp_path, Settings(warmup_url=f"{url}/warm.json"))
        warmup = Warmup(parts)
        warmup.begin()
        while not parts.engine.read_names:
            await asyncio.sleep(0)
    await warmup.stop()

    assert parts.engine.read_names == ["a.ckpt"]


async def test_a_fetch_that_fails_early_is_tried_again_and_told(tmp_path):
    """The engine may take minutes: by then the host may answer."""
    async with served(TEXT) as url:
        warmup = Warmup(parts_in(tmp_path, Settings(warmup_url=f"{url}/gone")))
        warmup.begin()
        with pytest.raises(BootFailed, match="404"):
            await warmup.run()
        await warmup.stop()


async def test_a_warmup_that_is_known_is_not_fetched(tmp_path):
    """Its models were named at the engine's launch."""
    warmup = Warmup(parts_in(tmp_path, Settings(warmup_json=TEXT, warmup_url="http://h.invalid")))
    warmup.begin()
    await warmup.stop()
    assert "set" in repr(warmup)


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "no JSON object")])
async def test_what_is_no_object_is_the_images_fault(tmp_path, text, said):
    """The variable is named."""
    with pytest.raises(BootFailed, match=f"WARMUP_PROMPT_JSON.*{said}") as caught:
        await warmup_payload(Settings(warmup_json=text), parts_in(tmp_path))
    assert caught.value.blame == "image"


def fails(error):
    """A script whose runs raise."""

    async def script(_prompt, _files):
        yield Started(1)
        raise error

    return script


async def test_the_prompt_is_run_and_nothing_is_left(tmp_path):
    """At each call; read once, so that a restart does not depend on the network."""
    file = tmp_path / "warm.json"
    file.write_text(TEXT)
    parts = parts_in(tmp_path, Settings(warmup_file=file))
    warmup = Warmup(parts)
    assert warmup.wanted
    await warmup.run()
    file.unlink()
    await warmup.run()
    assert len(parts.engine.prompts) == 2
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_file()]


async def test_nothing_is_run_where_nothing_is_set(tmp_path):
    """There is no warmup by default."""
    parts = parts_in(tmp_path)
    assert not Warmup(parts).wanted
    await Warmup(parts).run()
    assert parts.engine.prompts == []


async def test_a_warmup_that_fails_is_the_boots_fault(tmp_path):
    """With the whole of it in the details; or the boot goes on without."""
    error = ExecutionFailed("cold feet", hint="socks")
    parts = parts_in(tmp_path, Settings(warmup_json=TEXT), script=fails(error))
    with pytest.raises(BootFailed, match="the warmup failed: cold feet") as caught:
        await Warmup(parts).run()
    assert caught.value.hint == "socks"
    assert caught.value.details["code"] == "execution_error"

    settings = Settings(warmup_json=TEXT, warmup_failure="continue")
    await Warmup(parts_in(tmp_path, settings, script=fails(error))).run()
