"""The deletion cost as the jobs come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from worker import until

from adapters.salad_cost import follow_jobs
from adapters.salad_imds import ImdsFailed


@contextlib.asynccontextmanager
async def following(count, tell, **options):
    task = asyncio.create_task(follow_jobs(count, tell, look_s=0.005, again_s=0.01, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_changes_alone_are_told():
    """And the first count: what died here before may have left another."""
    jobs, told = [0], []

    async def tell(cost):
        told.append(cost)

    async with following(lambda: jobs[0], tell):
        await until(lambda: told == [0])
        jobs[0] = 3
        await until(lambda: told == [0, 3])
        jobs[0] = 0
        await until(lambda: told == [0, 3, 0])
        await asyncio.sleep(0.05)
    assert told == [0, 3, 0]


async def test_changes_meanwhile_become_one():
    """A slow service is not asked once a job."""
    jobs, told, go_on = [0], [], asyncio.Event()

    async def tell(cost):
        told.append(cost)
        await go_on.wait()

    async with following(lambda: jobs[0], tell):
        await until(lambda: told == [0])
        for count in (1, 2, 3, 5):
            jobs[0] = count
        go_on.set()
        await until(lambda: told == [0, 5])


async def test_a_failure_is_logged_once_and_tried_again(caplog):
    """The newest count is what arrives in the end."""
    caplog.set_level(logging.WARNING, "comfyfn.salad")
    tries, told = [], []

    async def tell(cost):
        tries.append(cost)
        if len(tries) < 4:
            raise ImdsFailed("no luck")
        told.append(cost)

    async with following(lambda: 2, tell):
        await until(lambda: told == [2])
    assert tries == [2, 2, 2, 2]
    assert caplog.text.count("the deletion cost 2 was not told: no luck") == 1
