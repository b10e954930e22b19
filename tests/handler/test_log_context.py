"""Which job a line is about."""

from __future__ import annotations

import asyncio

from handler.log_context import JobMark, current_mark, job_context, speak_of


async def test_a_jobs_own_tasks_speak_of_it_and_no_other_does():
    """What the task says holds for those that it starts, and not for whoever started it."""
    seen = {}

    async def below(name):
        await asyncio.sleep(0)
        seen[name] = current_mark()

    async def job(name):
        speak_of(JobMark(name))
        await asyncio.gather(below(name), asyncio.create_task(below(f"{name}'s task")))
        seen[f"{name}'s thread"] = await asyncio.to_thread(current_mark)

    await asyncio.gather(asyncio.create_task(job("a")), asyncio.create_task(job("b")))
    assert {name: mark.job_id for name, mark in seen.items()} == {
        "a": "a",
        "a's task": "a",
        "a's thread": "a",
        "b": "b",
        "b's task": "b",
        "b's thread": "b",
    }
    assert current_mark() is None


def test_a_block_speaks_of_a_job_and_then_as_before():
    """Blocks lie within one another, and what serves all jobs says so."""
    with job_context(JobMark("outer", "0af7651916cd43dd8448eb211c80319c")):
        with job_context(None):
            assert current_mark() is None
        mark = current_mark()
        assert mark is not None
        assert (mark.job_id, mark.trace_id) == ("outer", "0af7651916cd43dd8448eb211c80319c")
    assert current_mark() is None
