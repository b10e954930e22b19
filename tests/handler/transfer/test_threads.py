"""Blocking calls that are left, or waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from handler.log_context import JobMark, current_mark, job_context
from handler.transfer.threads import beside, ended


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def running(begun):
    while not begun.is_set():
        await asyncio.sleep(0)


async def test_a_call_gives_what_the_work_gives(threads):
    """Its faults, too."""

    def fail():
        raise ValueError("no")

    assert await threads.call(lambda: 4711) == 4711
    with pytest.raises(ValueError, match="no"):
        await threads.call(fail)


async def test_a_call_that_is_cancelled_is_left_and_its_late_result_disposed_of(threads):
    """Nobody waits for it; what it opened is closed all the same."""
    begun, gate = threading.Event(), threading.Event()
    disposed = asyncio.Event()

    def work():
        begun.set()
        gate.wait(20)
        return "late"

    task = asyncio.create_task(threads.call(work, dispose=lambda _: disposed.set()))
    await running(begun)
    await cancelled(task)
    assert not disposed.is_set()
    gate.set()
    async with asyncio.timeout(5):
        await disposed.wait()


async def test_a_call_that_must_finish_is_waited_for(threads):
    """Cancelled twice and aborted, it has ended before its caller goes on."""
    begun, gate, over = threading.Event(), threading.Event(), threading.Event()

    def work():
        begun.set()
        gate.wait(20)
        over.set()

    aborted = asyncio.Event()
    task = asyncio.create_task(threads.finish(work, abort=aborted.set))
    await running(begun)
    task.cancel()
    await aborted.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over.is_set()


async def test_tasks_are_gone_when_they_have_ended():
    """Also those that fail on their way out."""

    async def stubborn():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on its way out")

    tasks = {asyncio.create_task(stubborn()), asyncio.create_task(asyncio.Event().wait())}
    await asyncio.sleep(0)
    await ended(tasks)
    assert all(task.done() for task in tasks)


async def test_what_runs_beside_a_block_ends_with_it():
    """And not before."""
    seen = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("over")

    async with beside(work()):
        await asyncio.sleep(0)
        assert seen == []
    assert seen == ["over"]


async def test_a_thread_speaks_of_the_callers_job(threads):
    """What a transfer logs from there is said of the job; the next call's of its own."""
    with job_context(JobMark("a")):
        called = await threads.call(current_mark)
        finished = await threads.finish(current_mark, abort=lambda: None)
    assert (called, finished) == (JobMark("a"), JobMark("a"))
    assert await threads.call(current_mark) is None
