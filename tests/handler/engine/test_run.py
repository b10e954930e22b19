"""One prompt's events and its one end."""

from __future__ import annotations

import asyncio

import pytest

from handler.engine.base import EnginePrompt
from handler.engine.events import Gone, Interrupted, NodeStarted, Started, Succeeded
from handler.engine.run import Run
from handler.errors import EngineDied


def run_of():
    events = []
    return Run(EnginePrompt("p", {"1": {"class_type": "X", "inputs": {}}}), events.append), events


async def test_events_are_handed_on_and_the_end_settles_it():
    """A second start is none."""
    run, events = run_of()
    assert repr(run) == "<Run p waits>"
    run.take([Started(1), NodeStarted("1"), Started(2)])
    assert (run.began, repr(run)) == (True, "<Run p began>")
    assert not await run.settled(0.01)
    run.take([Succeeded(3)])

    assert await run.settled(10)
    assert events == [Started(1), NodeStarted("1"), Succeeded(3)]
    assert repr(run) == "<Run p ended>"


async def test_a_run_known_from_history_alone_begins_too():
    """Its followers are told of a start before the end."""
    run, events = run_of()
    run.take([Interrupted(None, None)])

    assert [type(event) for event in events] == [Started, Interrupted]


async def test_a_run_that_nothing_was_seen_of_is_gone():
    """Gone is no start."""
    run, events = run_of()
    assert not run.gone
    run.take([Gone()])

    assert (run.gone, run.began, events) == (True, False, [Gone()])


async def test_the_first_end_stays():
    """An error after it changes nothing, and an error is no Gone."""
    run, _ = run_of()
    run.fail(EngineDied("first"))
    run.fail(EngineDied("second"))
    run.take([Succeeded(1)])

    assert not run.gone
    with pytest.raises(EngineDied, match="first"):
        run.done.result()


async def test_a_post_under_way_is_known():
    """Until it is answered the queue says nothing of the prompt."""
    run, _ = run_of()
    assert not run.in_post
    answered = asyncio.Event()
    run.post = asyncio.create_task(answered.wait())
    assert run.in_post
    answered.set()
    await run.post
    assert not run.in_post
