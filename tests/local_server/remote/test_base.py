"""How a job somewhere else is begun, followed and stopped."""

from __future__ import annotations

import asyncio
import time

import pytest

from handler.errors import JobCancelled
from local_server.cli.run_bar import Bar
from local_server.remote.base import Pace, named, show, stoppable, told_by


class Job:
    """A job whose beginning and end are told."""

    def __init__(self):
        self.may_begin, self.quitting = asyncio.Event(), asyncio.Event()
        self.stopped = []

    async def submit(self):
        await asyncio.wait(
            {asyncio.ensure_future(e.wait()) for e in (self.may_begin, self.quitting)},
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not self.may_begin.is_set():
            raise JobCancelled("it did not begin")
        return "ticket"

    async def follow(self, ticket):
        await asyncio.Event().wait()

    async def stop(self, ticket):
        self.stopped.append(ticket)


async def cancelled(work):
    """Cancel a piece of work after a moment, and see it end so."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_goes_away_stops_the_job():
    """By its ticket."""
    job = Job()
    job.may_begin.set()
    await cancelled(stoppable(job.submit(), job.follow, job.stop))
    assert job.stopped == ["ticket"]


async def test_a_job_that_is_just_begun_is_stopped_when_its_ticket_is_there():
    """The request was on its way."""
    job = Job()
    asyncio.get_running_loop().call_later(0.05, job.may_begin.set)
    await cancelled(stoppable(job.submit(), job.follow, job.stop))
    assert job.stopped == ["ticket"]


async def test_a_job_that_waits_to_be_begun_never_is():
    """Whoever waits for a worker is told to stop waiting."""
    job = Job()
    await cancelled(stoppable(job.submit(), job.follow, job.stop, quit_=job.quitting.set))
    assert job.stopped == []


async def test_a_job_that_cannot_be_stopped_is_told_of(caplog):
    """It may go on and cost."""
    job = Job()
    job.may_begin.set()

    async def stop(_):
        raise OSError("no route")

    await cancelled(stoppable(job.submit(), job.follow, stop))
    assert caplog.messages == ["the job may still run there: no route"]


async def test_the_beginning_s_own_fault_is_raised():
    """There is nothing to stop."""
    job = Job()
    job.quitting.set()
    with pytest.raises(JobCancelled):
        await stoppable(job.submit(), job.follow, job.stop)


def test_every_run_has_a_name_of_its_own():
    """Whatever the payload was called before."""
    payload, name = named({"prompt": {}, "id": "old"})
    assert payload == {"prompt": {}, "id": name}
    assert named({})[1] != name


def test_news_of_any_shape_is_shown_or_left_alone(heard):
    """A platform passes on what its worker told."""
    for news in (
        {"status": "fetching", "percent": 0.0},
        {"status": "running", "percent": 5.0, "eta_s": 3, "node": "2"},
        {"type": "phase", "data": {"phase": "running"}},
        *(None, "50 %", [], {}, {"type": 3}, {"data": 1, "x": 2}, {"percent": "much"}),
    ):
        told_by(news, heard)
    kinds = [event.type for event in heard.shown]
    assert kinds == ["phase", "progress", "phase"]
    assert heard.shown[1].data["overall_pct"] == 5.0


async def test_news_that_cannot_be_shown_ends_nothing():
    """Its data may be anything."""
    with Bar() as bar:
        show("progress", {"overall_pct": "much"}, bar)
        show("download", {}, bar)
        show("phase", {"phase": None}, bar)


async def test_questions_come_seldom_while_there_is_no_news():
    """And at once again after some."""
    pace, waits = Pace(0.01, 0.04, 2), []
    for news in ("a", "a", "a", "a", "b"):
        begun = time.monotonic()
        await pace.wait(news)
        waits.append(time.monotonic() - begun)
    assert waits[3] >= 0.04 > waits[0] >= 0.01
    assert waits[4] < waits[3]
