"""A prompt is taken back wherever it is, and no other is hit."""

from __future__ import annotations

import asyncio
import time

import pytest
from engine_stub import stub_engine
from worker import until

from handler.engine.base import EnginePrompt
from handler.engine.events import Succeeded
from handler.engine.run import Run
from handler.engine.stopping import take_back

DELETE, INTERRUPT = ("/queue", {"delete": ["p"]}), ("/interrupt", {"prompt_id": "p"})


def take(client, run=None, grace_s=10.0, deaf_s=10.0):
    return take_back(client, "p", run, grace_s=grace_s, deaf_s=deaf_s)


def run_of():
    return Run(EnginePrompt("p", {}), [].append)


async def test_a_prompt_that_waits_is_deleted_and_nothing_is_interrupted():
    """An old ComfyUI does not read the id and would stop the prompt of another."""
    async with stub_engine() as (stub, client):
        stub.heeds, stub.running, stub.pending = True, ["other"], ["p"]
        assert await take(client) is None
    assert stub.posts == [DELETE]
    assert stub.running == ["other"]


async def test_a_prompt_that_runs_is_interrupted_until_it_is_gone():
    """An interrupt that meets the very start of a run is forgotten."""
    async with stub_engine() as (stub, client):
        stub.running = ["p"]
        taking = asyncio.create_task(take(client))
        await until(lambda: len(stub.posted("/interrupt")) == 2)
        stub.running = []
        assert await taking is None
    assert stub.posts[:2] == [DELETE, INTERRUPT]


@pytest.mark.parametrize("route", ["POST /queue", "POST /interrupt"])
@pytest.mark.parametrize("status", [404, 500])
async def test_an_order_that_is_refused_does_not_take_the_other_with_it(route, status):
    """Both are sent, and the queue is what counts."""
    async with stub_engine() as (stub, client):
        stub.refuse, stub.running = {route: status}, ["p"]
        taking = asyncio.create_task(take(client, deaf_s=1.0))
        await until(lambda: INTERRUPT in stub.posts)
        stub.running = []
        assert await taking is None


async def test_a_post_under_way_is_waited_for():
    """The prompt is not in the queue yet: that is no sign of its end."""
    async with stub_engine() as (stub, client):
        stub.heeds, run = True, run_of()
        answered = asyncio.Event()
        run.post = asyncio.create_task(answered.wait())
        taking = asyncio.create_task(take(client, run))
        await until(lambda: len(stub.posted("/queue")) == 2)
        assert not taking.done()
        stub.running = ["p"]
        answered.set()
        assert await taking is None
    assert INTERRUPT in stub.posts


async def test_a_run_that_has_ended_is_asked_for_no_more():
    """Its end was told by the WebSocket."""
    async with stub_engine() as (stub, client):
        stub.running, run = ["p"], run_of()
        taking = asyncio.create_task(take(client, run))
        await until(lambda: stub.posts)
        run.take([Succeeded(1)])
        assert await taking is None


async def test_an_engine_that_does_not_heed_is_told():
    """After its grace, while it answers all the time."""
    async with stub_engine() as (stub, client):
        stub.running = ["p"]
        assert await take(client, grace_s=0.7, deaf_s=0.5) == "did not let go of it within 0.7 s"


@pytest.mark.parametrize("path", ["/queue", "/interrupt"])
async def test_an_engine_that_hangs_is_told(path):
    """Sooner than one that answers, however long a request may hang."""
    async with stub_engine() as (stub, client):
        stub.running, stub.hang = ["p"], {path}
        begun = time.monotonic()
        assert await take(client, deaf_s=0.3) == "did not answer for 0.3 s"
    assert time.monotonic() - begun < 3
