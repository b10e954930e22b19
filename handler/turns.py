"""A job's turn with the engine: the wait for a slot, the run, and the slot given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING

from handler.engine.base import GraphRefused, NeverStarted
from handler.engine.events import Started
from handler.errors import QueueTimedOut
from handler.job import Job, Phase
from handler.pipeline.execute import Recorder, engine_prompt, judge_end
from handler.pipeline.faults import graph_refused
from handler.slots import Slots
from handler.wind_down import WindDowns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.engine.base import OnEvent
    from handler.engine.events import End, EngineEvent
    from handler.pipeline.stages import Parts, Prepared, Ran

log = logging.getLogger("comfyfn.service")
RESUBMITS = 3


class Turns:
    """The engine's slots, and the jobs that have or want one.

    Args:
        ready: waits for the engine's boot; raises where there will be none.
    """

    def __init__(self, parts: Parts, ready: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._ready = ready
        self._slots: Slots[Job] = Slots(parts.settings.engine_prefetch, _moved)
        self._winding_down = WindDowns(parts, self._slots)
        self._busy_s: deque[float] = deque(maxlen=32)

    def __repr__(self) -> str:
        return f"<Turns {self._slots!r}>"

    def position(self, job: Job) -> int | None:
        """How many jobs are before this one; 0 is with the engine."""
        return self._slots.position(job)

    @property
    def retry_after_s(self) -> float:
        """How long a job has the engine typically: when another try makes sense."""
        typical = statistics.median(self._busy_s) if self._busy_s else 1.0
        return max(1.0, round(typical, 1))

    async def execute(self, prepared: Prepared, job: Job) -> Ran:
        """Wait for a slot and run; the wait ends when the engine begins, not with the slot.

        Raises:
            QueueTimedOut: the engine was busy for too long.
            HandlerError: as the run ended.
        """
        limits = prepared.request.timeouts
        limit_s = (limits and limits.queue_s) or self._parts.settings.queue_timeout_s
        try:
            async with asyncio.timeout(limit_s or None) as wait:
                job.enter(Phase.QUEUED, position=self._slots.waiting + len(self._slots))
                await self._slots.acquire(job)
                return await self._run_in_slot(prepared, job, wait)
        except TimeoutError as error:
            if not wait.expired():
                raise
            raise QueueTimedOut(
                f"the engine was busy for {limit_s:g} s",
                hint="try another worker, or raise QUEUE_TIMEOUT_S or timeouts.queue_s",
                retry_after_s=self.retry_after_s,
            ) from error

    async def _run_in_slot(self, prepared: Prepared, job: Job, wait: asyncio.Timeout) -> Ran:
        """Run and give the slot back; a prompt that never began is sent again."""
        held = True
        try:
            for attempt in range(RESUBMITS):
                await self._ready()
                recorder = Recorder(prepared, job, self._parts)
                job.ran = recorder.ran
                prompt = engine_prompt(prepared, uuid.uuid4().hex, self._parts)
                listener = _until_started(wait, recorder)
                run: asyncio.Task[End] = asyncio.create_task(self._engine.run(prompt, listener))
                self._parts.events.follow(run, prompt, job)
                begun = time.monotonic()
                try:
                    end = await asyncio.shield(run)
                except asyncio.CancelledError:
                    held = False
                    self._winding_down.begin(run, prompt.prompt_id, job)
                    raise
                except GraphRefused as error:
                    info = await self._engine.object_info()
                    raise graph_refused(error, prepared.graph, info) from error
                except NeverStarted:
                    if attempt == RESUBMITS - 1:
                        raise
                    log.warning("job %s: the engine ended before it began; again", job.id)
                    continue
                self._busy_s.append(time.monotonic() - begun)
                return judge_end(end, recorder.ran)
            raise AssertionError("unreachable")
        finally:
            if held:
                self._slots.release(job)

    async def close(self) -> None:
        """Wait for no run that is being ended any longer."""
        await self._winding_down.close()


def _moved(job: Job, position: int) -> None:
    if job.followed:
        job.tell("phase", {"phase": job.phase.value, "position": position})


def _until_started(wait: asyncio.Timeout, recorder: Recorder) -> OnEvent:
    """Lift the limit on the wait when the run begins."""

    def listen(event: EngineEvent) -> None:
        if isinstance(event, Started):
            with contextlib.suppress(RuntimeError):  # it has just expired, or the job is over
                wait.reschedule(None)
        recorder(event)

    return listen
