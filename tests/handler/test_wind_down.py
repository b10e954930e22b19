"""Runs that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib

from worker import parts_in, until

from handler.engine.events import Gone, Started
from handler.job import Job
from handler.settings import Settings
from handler.slots import Slots
from handler.wind_down import WindDowns


async def hangs(_prompt, _files):
    """A run that waits for ever."""
    yield Started(1)
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def hanging(home, **settings):
    """Give what ends runs, a run with its job, the slots it is in, and the engine."""
    from handler.engine.base import EnginePrompt

    parts = parts_in(home, Settings(**settings), script=hangs)
    slots, job = Slots(1), Job(uid="uid", id="job")
    await slots.acquire(job)
    run = asyncio.create_task(parts.engine.run(EnginePrompt("p", {}), lambda _event: None))
    await until(lambda: parts.engine.prompts)
    await asyncio.sleep(0)
    winding = WindDowns(parts, slots)
    winding.begin(run, "p", job)
    yield winding, slots, parts.engine, run
    await winding.close()
    await parts.engine.stop()


async def test_a_run_is_ended_by_order(tmp_path):
    """Its slot is free when the engine is rid of it."""
    async with hanging(tmp_path) as (winding, slots, engine, run):
        assert repr(winding) == "<WindDowns 1>"
        assert len(slots) == 1
        await until(lambda: not len(slots))
        assert engine.cancelled == ["p"]
        assert engine.restarts == []
        assert run.done()
        await until(lambda: repr(winding) == "<WindDowns 0>")


async def test_a_run_that_does_not_heed_is_ended_with_the_engine(tmp_path):
    """After CANCEL_GRACE_S."""

    async with hanging(tmp_path, cancel_grace_s=0.02) as (_, slots, engine, _):
        engine.stubborn = True
        await until(lambda: not len(slots))
        assert engine.restarts == ["job job was cancelled and does not stop"]


async def test_a_close_waits_for_none(tmp_path):
    """The server stops."""
    async with hanging(tmp_path) as (winding, slots, engine, run):
        engine.stubborn = True
        await asyncio.sleep(0)
        await winding.close()
        assert run.cancelled() or isinstance(run.result(), Gone)
        assert len(slots) == 0
