"""The way of a payload, written out: each stage takes one record and gives the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from handler.errors import TimedOut
from handler.job import Job, Phase
from handler.pipeline.archive import archived
from handler.pipeline.collect import collect
from handler.pipeline.convert import convert
from handler.pipeline.deliver import Clock, deliver
from handler.pipeline.fetch_models import prepare
from handler.pipeline.stages import Parts, Prepared, Ran, Received
from handler.pipeline.uploads import uploading
from handler.pipeline.validate import validate
from handler.records import Output

if TYPE_CHECKING:
    from handler.pipeline.uploads import Uploads
    from handler.wire import Answer

log = logging.getLogger("comfyfn.job")
Execute = Callable[[Prepared], Awaitable[Ran]]
Ready = Callable[[], Awaitable[None]]
Keep = Callable[[Job, Sequence[Output], bool], Awaitable[None]]
"""Keeps the outputs of a job, before their files go. True: the job failed when they were there."""


async def run_pipeline(
    received: Received,
    parts: Parts,
    execute: Execute,
    ready: Ready | None = None,
    *,
    operator: bool = False,
    keep: Keep | None = None,
) -> Answer:
    """Take a payload through all stages.

    Args:
        execute: queues the graph and runs it; the service's, which owns the engine's slots.
        ready: waits for the engine's boot, which counts into the job's total time.
        operator: the graph is the operator's: its models may be fetched from anywhere.
        keep: given the outputs at the end, as well of a job that fails with outputs there. What
            it raises is logged.

    Raises:
        HandlerError: the stage's own; TimedOut when the job's total time is over.
    """
    job, limits = received.job, received.request.timeouts
    total_s = (limits and limits.total_s) or parts.settings.job_timeout_s
    folder = JobFolder(job, parts)
    course = _Course(received, parts, execute, ready, folder, operator=operator)
    try:
        async with (
            asyncio.timeout(total_s or None) as deadline,
            uploading(received, parts) as going,
        ):
            answer = await course.run(going)
        # What went to the operator's storage, whose links die, is kept as what has no URL.
        spilled = answer.tail["stats"].get("spilled")
        await _keep(keep, job, course.outputs if spilled else answer.outputs, failed=False)
    except TimeoutError as error:
        await course.failed(keep)
        if deadline.expired():
            raise TimedOut(
                f"the job took longer than its limit of {total_s:g} s",
                hint="raise JOB_TIMEOUT_S or timeouts.total_s",
            ) from error
        raise
    except Exception:
        await course.failed(keep)
        raise
    except BaseException:
        await folder.remove()
        raise
    return answer


class _Course:
    """One payload on its way.

    Attributes:
        outputs: those that are there by now, as far as they are made.
    """

    def __init__(
        self,
        received: Received,
        parts: Parts,
        execute: Execute,
        ready: Ready | None,
        folder: JobFolder,
        *,
        operator: bool,
    ) -> None:
        self._received = received
        self._parts = parts
        self._execute = execute
        self._ready = ready
        self._folder = folder
        self._operator = operator
        self.outputs: list[Output] = []

    async def run(self, uploads: Uploads | None) -> Answer:
        """Go through the stages."""
        received, parts, job = self._received, self._parts, self._received.job
        began = time.monotonic()
        if self._ready is not None:
            await self._ready()
            began = time.monotonic()
        validated = await validate(received, parts)
        job.enter(Phase.FETCHING)
        prepared = await prepare(validated, job, parts, operator=self._operator)
        preprocess_s = time.monotonic() - began
        ran = await self._execute(replace(prepared, uploads=uploads))
        clock = Clock(began, preprocess_s, time.monotonic() - began - preprocess_s)
        job.enter(Phase.COLLECTING)
        collected = await collect(ran, received, parts, uploads)
        self.outputs = collected.outputs
        if received.request.convert_output is not None:
            job.enter(Phase.CONVERTING)
        converted = await convert(collected, received, parts, uploads)
        self.outputs = converted.outputs
        job.enter(Phase.DELIVERING)
        whole = await archived(converted, received, parts)
        self.outputs = whole.outputs
        return await deliver(whole, received, parts, self._folder, clock, uploads)

    async def failed(self, keep: Keep | None) -> None:
        """Have kept what there is, and remove the job's files."""
        try:
            if self.outputs:
                await _keep(keep, self._received.job, self.outputs, failed=True)
        finally:
            await self._folder.remove()


async def _keep(keep: Keep | None, job: Job, outputs: Sequence[Output], *, failed: bool) -> None:
    if keep is None:
        return
    try:
        await keep(job, outputs, failed)
    except Exception:
        log.exception("job %s: its outputs could not be kept", job.id)


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
