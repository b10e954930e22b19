"""The way of a payload, written out: each stage takes one record and gives the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from handler.errors import TimedOut
from handler.job import Job, Phase
from handler.pipeline.collect import collect
from handler.pipeline.convert import convert
from handler.pipeline.deliver import deliver
from handler.pipeline.fetch_models import prepare
from handler.pipeline.stages import Parts, Prepared, Ran, Received
from handler.pipeline.validate import validate

if TYPE_CHECKING:
    from handler.wire import Answer

log = logging.getLogger("comfyfn.job")
Execute = Callable[[Prepared], Awaitable[Ran]]
Ready = Callable[[], Awaitable[None]]


async def run_pipeline(
    received: Received,
    parts: Parts,
    execute: Execute,
    ready: Ready | None = None,
    *,
    operator: bool = False,
) -> Answer:
    """Take a payload through all stages.

    Args:
        execute: queues the graph and runs it; the service's, which owns the engine's slots.
        ready: waits for the engine's boot, which counts into the job's total time.
        operator: the graph is the operator's: its models may be fetched from anywhere.

    Raises:
        HandlerError: the stage's own; TimedOut when the job's total time is over.
    """
    job, limits = received.job, received.request.timeouts
    total_s = (limits and limits.total_s) or parts.settings.job_timeout_s
    folder = JobFolder(job, parts)
    began = time.monotonic()
    try:
        async with asyncio.timeout(total_s or None) as deadline:
            if ready is not None:
                await ready()
                began = time.monotonic()
            validated = await validate(received, parts)
            job.enter(Phase.FETCHING)
            prepared = await prepare(validated, job, parts, operator=operator)
            preprocess_s = time.monotonic() - began
            ran = await execute(prepared)
            round_trip_s = time.monotonic() - began - preprocess_s
            job.enter(Phase.COLLECTING)
            collected = await collect(ran, received, parts)
            if received.request.convert_output is not None:
                job.enter(Phase.CONVERTING)
            converted = await convert(collected, received, parts)
            job.enter(Phase.DELIVERING)
            return deliver(converted, received, parts, folder, (began, preprocess_s, round_trip_s))
    except TimeoutError as error:
        await folder.remove()
        if deadline.expired():
            raise TimedOut(
                f"the job took longer than its limit of {total_s:g} s",
                hint="raise JOB_TIMEOUT_S or timeouts.total_s",
            ) from error
        raise
    except BaseException:
        await folder.remove()
        raise


class JobFolder:
    """The files of one job, in the engine's folders and in ours; removed together."""

    def __init__(self, job: Job, parts: Parts) -> None:
        self._job = job
        self._parts = parts

    async def remove(self) -> None:
        """Remove everything, strays in the engine's folders included; again is fine.

        Models that were kept for the job may go from now on, too.
        """
        self._parts.models.release(self._job.uid)
        self._parts.engine.files.forget(self._job.uid)
        shutil.rmtree(self._parts.scratch / self._job.uid, ignore_errors=True)
        for path in self._job.strays:
            with contextlib.suppress(OSError):
                path.unlink()
        self._job.strays.clear()
