"""The routes of RunPod's request API in this process; tests/platforms has the real server."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from http_worker import fault
from worker import GRAPH, serving, worker

from adapters.asgi import make_app
from adapters.runpod_api import _wait_ms, runpod_platform
from handler.engine.base import EngineState
from handler.errors import InvalidPayload
from handler.settings import Settings


@contextlib.asynccontextmanager
async def served(home, **settings):
    settings = Settings(state_dir=home / "state", **settings)
    platform = runpod_platform(settings)
    async with worker(home, settings) as (handler, engine):
        platform.sited(SimpleNamespace(folders=engine.files._folders))
        app = make_app(handler, settings, platform=platform)
        async with serving(app) as client:
            beside = asyncio.create_task(platform.beside(handler))
            try:
                yield client, handler, engine
            finally:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)


async def test_a_job_is_run_beside_our_own_api(tmp_path):
    """On one handler."""
    async with served(tmp_path) as (client, _, _):
        own = await client.post("/prompt", json={"prompt": GRAPH})
        theirs = await client.post("/v2/x/runsync", json={"input": {"prompt": GRAPH}})
        listed = (await client.get("/jobs")).json()["jobs"]
    assert theirs.json()["output"]["images"] == own.json()["images"]
    assert {job["adapter"] for job in listed} == {"http", "runpod"}


async def test_bodies_that_are_none_are_refused(tmp_path):
    """By /run and /runsync, before anything is queued."""
    async with served(tmp_path) as (client, _, _):
        for body in (b"", b"{", b"[]", b"{}", b'{"input": 1, "webhook": 5}'):
            for path in ("/run", "/runsync"):
                fault(await client.post(path, content=body), 400, "invalid_payload")
        assert (await client.get("/v2/x/health")).json()["jobs"]["inQueue"] == 0


async def test_health_tells_of_the_one_worker(tmp_path):
    """Booting, idle, broken."""
    async with served(tmp_path) as (client, _, engine):
        states = []
        for state in (EngineState.READY, EngineState.RESTARTING, EngineState.FAILED):
            engine.enter(state, "as the test wants it")
            told = (await client.get("/v2/x/health")).json()["workers"]
            states.append({name for name, count in told.items() if count})
        plain = await client.get("/health")
    assert states == [{"idle", "ready"}, {"initializing"}, {"unhealthy"}]
    assert (plain.status_code, plain.json()["workers"]["unhealthy"]) == (500, 1)


async def test_a_worker_on_its_way_down_leaves_jobs_in_the_queue(tmp_path):
    """Who waits is told so at once, and not at the end of the wait."""
    async with served(tmp_path) as (client, handler, _):
        assert (await client.get("/v2/x/health")).status_code == 200
        await handler.drain(0)
        async with asyncio.timeout(5):
            told = await client.post("/runsync", json={"input": {"prompt": GRAPH}})
    assert told.json()["status"] == "IN_QUEUE"
    assert len(list((tmp_path / "state" / "runpod").glob("*.request"))) == 1


@pytest.mark.parametrize(
    ("text", "ms"), [(None, 90_000), ("2500", 2500), ("5", 1000), ("999999", 300_000)]
)
def test_a_wait_is_brought_within_bounds(text, ms):
    """RunPod's: 1 s to 5 minutes."""
    assert _wait_ms(text) == ms


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "9" * 30])
def test_a_wait_that_is_no_number_is_refused(text):
    """It is in milliseconds."""
    with pytest.raises(InvalidPayload):
        _wait_ms(text)
