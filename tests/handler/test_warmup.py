"""Where the warmup prompt comes from."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from worker import GRAPH, parts_in

from handler.errors import BootFailed, InputFailed
from handler.settings import Settings
from handler.warmup import warmup_payload

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


async def test_a_url_is_fetched_and_nothing_kept(tmp_path):
    """By the operator's own fetcher."""

    async def answer(request):
        return web.Response(text=TEXT, status=200 if request.path == "/warm.json" else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    parts = parts_in(tmp_path)
    try:
        settings = Settings(warmup_url=f"{url}/warm.json")
        assert await warmup_payload(settings, parts) == {"prompt": GRAPH}
        with pytest.raises(InputFailed, match="404"):
            await warmup_payload(Settings(warmup_url=f"{url}/gone"), parts)
    finally:
        await runner.cleanup()
    assert list(parts.scratch.iterdir()) == []


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "no JSON object")])
async def test_what_is_no_object_is_the_images_fault(tmp_path, text, said):
    """The variable is named."""
    with pytest.raises(BootFailed, match=f"WARMUP_PROMPT_JSON.*{said}") as caught:
        await warmup_payload(Settings(warmup_json=text), parts_in(tmp_path))
    assert caught.value.blame == "image"
