"""The wait for the engine, the run, and the slot given back."""

from __future__ import annotations

import asyncio

import pytest
from running import Gate
from worker import GRAPH, parts_in, received, until

from handler.engine.base import NeverStarted
from handler.engine.events import Failed, Started
from handler.engine.memory import save_pictures
from handler.errors import ExecutionFailed, NotReady, QueueTimedOut
from handler.job import Job, Phase
from handler.payload import parse_payload
from handler.pipeline.fetch_models import prepare
from handler.pipeline.stages import Received
from handler.pipeline.validate import validate
from handler.settings import Settings
from handler.turns import RESUBMITS, Turns


async def at_once():
    """The engine has booted."""


async def turns_in(home, settings=None, ready=at_once, **engine):
    parts = parts_in(home, settings, **engine)
    await parts.engine.start()
    return Turns(parts, ready), parts


async def a_turn(turns, parts, uid="u", **keys):
    """Begin with a job; give it and the task that has its run."""
    request = parse_payload({"prompt": GRAPH, **keys})
    job = Job(uid=uid, id=uid)
    fresh = Received(job, request)
    prepared = await prepare(await validate(fresh, parts), job, parts)
    return job, asyncio.create_task(turns.execute(prepared, job))


async def test_a_run_has_a_slot_and_gives_it_back(tmp_path):
    """The next one is let in."""
    gate = Gate()
    turns, parts = await turns_in(tmp_path, Settings(engine_prefetch=1), script=gate)
    first, running = await a_turn(turns, parts, "a")
    second, waiting = await a_turn(turns, parts, "b")
    await until(lambda: gate.begun and turns.position(second) is not None)
    assert (turns.position(first), turns.position(second)) == (0, 1)
    assert second.phase is Phase.QUEUED
    gate.open.set()
    ran = await running
    assert ran.graph
    await waiting
    assert turns.position(second) is None
    assert turns.retry_after_s == 1.0
    await turns.close()


async def test_the_wait_has_a_limit(tmp_path):
    """QUEUE_TIMEOUT_S, or the request's own; the run itself has none."""
    gate = Gate()
    settings = Settings(engine_prefetch=1, queue_timeout_s=0.05)
    turns, parts = await turns_in(tmp_path, settings, script=gate)
    _, running = await a_turn(turns, parts, "a")
    await until(lambda: gate.begun)
    _, waiting = await a_turn(turns, parts, "b")
    with pytest.raises(QueueTimedOut) as caught:
        await waiting
    assert caught.value.retry_after_s == 1.0
    _, patient = await a_turn(turns, parts, "c", timeouts={"queue_s": 20})
    gate.open.set()
    await running
    await patient


async def test_a_prompt_that_never_began_is_sent_again(tmp_path):
    """The engine died before it had it; not for ever."""
    ahead = [NeverStarted("gone")] * (RESUBMITS - 1)

    async def script(prompt, files):
        if ahead:
            raise ahead.pop()
        async for event in save_pictures(prompt, files):
            yield event

    turns, parts = await turns_in(tmp_path, script=script)
    _, run = await a_turn(turns, parts)
    await run
    assert len(parts.engine.prompts) == RESUBMITS
    ahead += [NeverStarted("gone")] * RESUBMITS
    _, run = await a_turn(turns, parts, "b")
    with pytest.raises(NeverStarted):
        await run
    assert len(turns._slots) == 0


async def test_a_failed_run_gives_the_slot_back(tmp_path):
    """And so does an engine that will not be ready."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "no", ())

    async def never():
        raise NotReady("given up")

    turns, parts = await turns_in(tmp_path, script=script)
    _, run = await a_turn(turns, parts)
    with pytest.raises(ExecutionFailed):
        await run
    assert len(turns._slots) == 0
    turns, parts = await turns_in(tmp_path / "2", ready=never)
    _, run = await a_turn(turns, parts)
    with pytest.raises(NotReady):
        await run
    assert repr(turns) == "<Turns <Slots 0/2 waiting=0>>"


async def test_a_cancelled_run_is_wound_down_with_its_slot(tmp_path):
    """The slot is free when the engine is rid of it."""
    gate = Gate()
    turns, parts = await turns_in(tmp_path, script=gate)
    job, run = await a_turn(turns, parts)
    await until(lambda: gate.begun)
    run.cancel()
    await asyncio.wait({run})
    await until(lambda: len(turns._slots) == 0)
    assert parts.engine.cancelled == [parts.engine.prompts[0].prompt_id]
    assert turns.position(job) is None
    await turns.close()


def test_a_job_that_has_just_come_has_no_position(tmp_path):
    """It is not in the line."""
    turns = Turns(parts_in(tmp_path), at_once)
    assert turns.position(received().job) is None
