"""Orders to cancel, from one worker to another."""

from __future__ import annotations

from handler.state.cancels import Cancels, Waits


async def test_an_order_is_there_until_it_is_heeded(worker, record):
    """For the worker that has the job, and for no other."""
    asking, asked = Cancels(worker()), Cancels(worker())
    run = record("a", instance="w1")
    await asking.ask(run)
    await asking.ask(run)
    assert await asked.asked("w1") == [run.uid]
    assert await asked.asked("w2") == []
    assert await asked.asked("w1") == [run.uid]
    await asked.heeded("w1", run.uid)
    await asked.heeded("w1", run.uid)
    assert await asked.asked("w1") == []


async def test_who_waits_elsewhere_is_seen_until_it_has_gone(worker, record):
    """Of this run, and of no other."""
    run, other = record("a", instance="w1"), record("b", instance="w1")
    ours, theirs = Waits(worker(), "w1"), Waits(worker(), "w2")
    assert not await ours.any(run.uid)
    await theirs.begin(run)
    assert await ours.any(run.uid)
    assert not await ours.any(other.uid)
    await theirs.end(run)
    await theirs.end(run)
    assert not await ours.any(run.uid)
