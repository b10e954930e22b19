"""A wired handler, on the embedded engine as a real child."""

from __future__ import annotations

import pytest
from aiohttp import web
from lone import site_in
from worker import GRAPH

from handler.build import build_handler
from handler.engine.boot import launch
from handler.engine.memory import PIXEL
from handler.errors import UrlNotAllowed
from handler.health import Health

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
        await parts.operator_fetcher.fetch(f"{origin}/a.png", tmp_path / "operator.png")
        if allowed:
            await parts.fetcher.fetch(f"{origin}/a.png", tmp_path / "caller.png")
        else:
            with pytest.raises(UrlNotAllowed):
                await parts.fetcher.fetch(f"{origin}/a.png", tmp_path / "caller.png")
    finally:
        await handler.stop()
        await runner.cleanup()
    assert (tmp_path / "operator.png").read_bytes() == PIXEL
