"""A wired handler, on the embedded engine as a real child."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from aiohttp import web
from lone import site_in
from receiver import SECRET, receiving
from worker import GRAPH

from handler.build import (
    build_events,
    build_handler,
    build_outbox,
    build_system_events,
    cache_folder,
)
from handler.engine.boot import launch
from handler.engine.comfyui import ComfyEngine
from handler.engine.memory import PIXEL
from handler.errors import UrlNotAllowed
from handler.health import Health
from handler.models.index import Index
from handler.models.item import Item
from handler.outbox.records import Letter
from handler.settings import Settings
from handler.transfer.records import Wanted

SIZE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
EMPTY = {"class_type": "EmptyImage", "inputs": SIZE}


async def test_a_built_handler_runs_a_graph(tmp_path):
    """From a launched process to an answer, and everything is gone after the stop."""
    site = site_in(tmp_path)
    handler = build_handler(site, launch(site))
    try:
        await handler.start()
        assert handler.health().health is Health.READY
        async with await handler.handle({"prompt": {**GRAPH, "1": EMPTY}, "id": "me"}) as answer:
            assert (await answer.json())["filenames"] == ["me_x_00001_.png"]
    finally:
        await handler.stop()
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("env", "allowed"),
    [({}, False), ({"URL_ALLOW_HOSTS": "127.0.0.1"}, True), ({"HTTP_TRUSTED_ORIGINS": ...}, True)],
)
async def test_callers_urls_are_held_to_the_policy_and_the_operators_are_not(
    tmp_path, env, allowed
):
    """Both variables open it; the warmup's URL needs none."""

    async def answer(_request):
        return web.Response(body=PIXEL)

    app = web.Application()
    app.router.add_get("/a.png", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    env = {name: origin if value is ... else value for name, value in env.items()}
    handler = build_handler(site_in(tmp_path, **env))
    try:
        parts = handler._parts
        wanted = Wanted(f"{origin}/a.png", tmp_path / "operator.png", kind="file")
        await parts.operator.download(wanted)
        wanted = replace(wanted, target=tmp_path / "caller.png")
        for downloader in (parts.downloader, parts.media):
            if allowed:
                await downloader.download(wanted)
            else:
                with pytest.raises(UrlNotAllowed):
                    await downloader.download(wanted)
    finally:
        await handler.stop()
        await runner.cleanup()
    assert (tmp_path / "operator.png").read_bytes() == PIXEL


def test_the_cache_of_a_comfyui_api_is_taken_over(tmp_path, monkeypatch):
    """Unless another folder is set; else it is ours."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(Settings()) == tmp_path / ".cache" / "comfyfn"
    (tmp_path / ".cache" / "comfyui-api").mkdir(parents=True)
    assert cache_folder(Settings()) == tmp_path / ".cache" / "comfyui-api"
    assert cache_folder(Settings(cache_dir=tmp_path / "x")) == tmp_path / "x"


async def test_outbox_is_wired_by_the_settings(tmp_path):
    """Its folder, the secret, and the policy for callers' URLs."""
    told = []
    env = {"STATE_DIR": str(tmp_path), "WEBHOOK_SECRET": SECRET, "URL_ALLOW_HOSTS": "127.0.0.1"}
    outbox = build_outbox(Settings.from_env(env), told.append)
    await outbox.open()
    async with receiving() as receiver:
        await outbox.check(receiver.url())
        with pytest.raises(UrlNotAllowed):
            await outbox.check("http://127.0.0.2/")
        await outbox.post(Letter(url=receiver.url(), body=b"{}", message_id="a", kind="x"))
        assert await outbox.drain(5) == 0
    await outbox.close()
    receiver.posts[0].verify()
    assert (tmp_path / "outbox").is_dir()
    assert [one.outcome for one in told] == ["delivered"]


async def test_engine_and_store_tell_the_operator(tmp_path):
    """Wired by the settings alone; a model that is evicted at the start is told, too."""
    old = tmp_path / "cache" / "objects" / "url-x.pt"
    async with receiving() as receiver:
        env = {
            "SYSTEM_WEBHOOK_URL": receiver.url(),
            "SYSTEM_WEBHOOK_EVENTS": "execution_success,file_deleted",
            "CACHE_DIR": str(tmp_path / "cache"),
            "LRU_CACHE_SIZE_GB": "0.000001",
        }
        index = Index(tmp_path / "cache")
        index.load()
        old.write_bytes(b"x" * 2000)
        index.save(Item(key="url-x", path=old, bytes=2000, leaf="x.pt", protected=False))
        site = site_in(tmp_path, **env)
        engine = ComfyEngine(site)
        events = build_events(site, engine)
        quiet = build_events(site_in(tmp_path / "quiet"), engine)
        handler = build_handler(site)
        try:
            handler._parts.events.open()
            (evicted,) = await receiver.got(1)
        finally:
            await handler._parts.events.close()
            await handler.stop()
            await events.close()
    assert events.on
    assert handler._parts.events.on
    assert not quiet.on
    told = json.loads(evicted.body)
    assert told["event"] == "storage.file_deleted"
    assert told["data"] == {"url": "unknown", "local_path": str(old), "size": 2000}


async def test_system_events_may_go_anywhere(tmp_path):
    """Their URL is the operator's."""
    async with receiving() as receiver:
        env = {
            "WEBHOOK_SECRET": SECRET,
            "SYSTEM_WEBHOOK_URL": receiver.url(),
            "SYSTEM_WEBHOOK_EVENTS": "status",
            "SYSTEM_META_Region": "eu",
        }
        events = build_system_events(Settings.from_env(env))
        events.open()
        events.tell_comfy({"type": "status", "data": {}}, None)
        await events.close(5)
    receiver.posts[0].verify()
    assert b'"Region":"eu"' in receiver.posts[0].body
