"""The wait for the engine, the run, and the slot given back."""

from __future__ import annotations

import asyncio
import time

import pytest
from running import Gate
from worker import GRAPH, parts_in, received, until

from handler.engine.base import NeverStarted
from handler.engine.events import Failed, Started, Succeeded
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


def timed(seconds, gate=None):
    """Make a script of runs that take so long by the engine's clock."""

    async def script(prompt, files):
        now_ms = round(time.time() * 1000)
        yield Started(now_ms)
        if gate is not None:
            await gate.wait()
        yield Succeeded(now_ms + round(seconds * 1000))

    return script


async def test_a_graph_that_has_run_is_expected_to_take_as_long(tmp_path):
    """Its kind is; one that never ran is not known."""
    turns, parts = await turns_in(tmp_path, script=timed(7.0))
    assert turns.estimate(GRAPH).run_s is None
    for uid in "abc":
        _, run = await a_turn(turns, parts, uid)
        await run
    assert turns.estimate(GRAPH).run_s == 7.0
    assert turns.estimate({**GRAPH, "1": {"class_type": "Other", "inputs": {}}}).run_s is None


async def test_the_line_before_a_graph_counts(tmp_path):
    """What runs and what waits, less what is done of it."""
    gate = asyncio.Event()
    turns, parts = await turns_in(tmp_path, Settings(engine_prefetch=1), script=timed(5.0, gate))
    gate.set()
    _, run = await a_turn(turns, parts, "known")
    await run
    gate.clear()
    runs = [(await a_turn(turns, parts, uid))[1] for uid in "ab"]
    await until(lambda: turns._slots.waiting == 1)
    expected = turns.estimate(GRAPH)
    assert 9.0 < expected.before_s <= 10.0
    assert expected.total_s == pytest.approx(expected.before_s + 5.0)
    gate.set()
    await asyncio.gather(*runs)
    assert turns.estimate(GRAPH).before_s == 0


async def test_a_run_that_was_cut_short_says_the_least(tmp_path):
    """So that the next one is not begun only to be cut short, too."""
    gate = asyncio.Event()
    turns, parts = await turns_in(tmp_path, script=timed(5.0, gate))
    job, run = await a_turn(turns, parts)
    await until(lambda: job.ran is not None and job.ran.started_ms)
    job.ran.started_ms -= 60_000
    run.cancel()
    await asyncio.wait({run})
    assert turns.estimate(GRAPH).run_s == pytest.approx(75, abs=2)
    gate.set()
    await turns.close()


async def test_a_gpu_that_failed_a_run_is_given_a_new_engine(tmp_path):
    """And counted until a run succeeds: then it was that process, not the GPU."""
    ends = [Failed("2", "SaveImage", "RuntimeError", "CUDA error: misaligned address", ())] * 3
    ends.append(Failed("2", "SaveImage", "ValueError", "no", ()))

    async def script(prompt, files):
        yield Started(1)
        yield ends.pop(0) if ends else Succeeded(2)

    turns, parts = await turns_in(tmp_path, script=script)
    counts = []
    for uid in "abcde":
        if uid != "b":  # it ran in the engine that had failed already
            parts.metrics.engine_changed("ready")
        _, run = await a_turn(turns, parts, uid)
        await asyncio.wait({run})
        counts.append((turns.gpu_faults, len(parts.engine.restarts)))
        assert run.exception() is None or isinstance(run.exception(), ExecutionFailed)
        if uid == "c":
            assert "misaligned address" in turns.gpu_fault
    assert counts == [(1, 1), (1, 2), (2, 3), (2, 3), (0, 3)]
