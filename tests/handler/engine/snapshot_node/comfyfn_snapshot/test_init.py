"""The route that wakes ComfyUI, on a real aiohttp server."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from handler.engine.snapshot_node.comfyfn_snapshot import (
    NODE_CLASS_MAPPINGS,
    add_route,
    may_wake,
    slumber,
)


class Slumber:
    """Stands in for the module."""

    own = object()

    def __init__(self, fault=None):
        self.given, self.fault = [], fault

    def wake(self, own, environment, environ, modules):
        assert own is self.own
        assert modules is sys.modules
        self.given.append(environment)
        if self.fault is not None:
            raise self.fault
        return {"device": "cuda", "name": "H100"}


@pytest.fixture
async def served():
    """Give what serves the route with some stand-in."""
    runners = []

    async def serve(stand_in, token="secret"):
        routes, app = web.RouteTableDef(), web.Application()
        add_route(routes, web, stand_in, token)
        app.add_routes(routes)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/comfyfn/wake"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def post(url, token):
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return await client.post(url, json={"environment": {"A": None}}, headers=headers)


async def test_who_has_the_token_wakes_it(served):
    """And is told what it computes on."""
    stand_in = Slumber()
    answer = await post(await served(stand_in), "secret")

    assert (answer.status_code, answer.json()["device"]) == (200, "cuda")
    assert stand_in.given == [{"A": None}]


async def test_nobody_else_does(served):
    """Nothing is touched for them."""
    stand_in = Slumber()
    url = await served(stand_in)
    assert [(await post(url, token)).status_code for token in ("other", "x")] == [403, 403]
    assert (await post(await served(stand_in, token=""), "x")).status_code == 403
    assert stand_in.given == []


async def test_a_gpu_that_cannot_be_used_is_told(served):
    """With CUDA's own words."""
    answer = await post(await served(Slumber(RuntimeError("no kernel image"))), "secret")

    assert answer.status_code == 500
    assert answer.json() == {"error": "RuntimeError: no kernel image"}


def test_only_this_machine_may():
    """Whatever address ComfyUI listens on."""
    assert may_wake("127.0.0.1", "Bearer t", "t")
    assert may_wake("::1", "Bearer t", "t")
    assert not may_wake("10.0.0.7", "Bearer t", "t")
    assert not may_wake(None, "Bearer t", "t")


def test_it_is_a_pack_without_nodes():
    """ComfyUI loads no other without a word; and outside of ComfyUI nothing is done."""
    assert NODE_CLASS_MAPPINGS == {}
    assert isinstance(slumber, types.ModuleType)
    assert not (Path(slumber.__file__).parents[1] / "__init__.py").exists()
