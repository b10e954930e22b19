"""A job's turn with the engine: the wait for a slot, the run, and the slot given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from handler.engine.base import EngineState, GraphRefused, NeverStarted
from handler.engine.events import Started
from handler.errors import ExecutionFailed, QueueTimedOut
from handler.job import Job, Phase, shortened
from handler.pipeline.execute import Recorder, engine_prompt, judge_end
from handler.pipeline.faults import graph_refused
from handler.run_times import Estimate, RunTimes, kind_of
from handler.slots import Slots
from handler.wind_down import WindDowns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.engine.base import OnEvent
    from handler.engine.events import End, EngineEvent
    from handler.pipeline.stages import Parts, Prepared, Ran

log = logging.getLogger("comfyfn.service")
RESUBMITS = 3
DOWN_S = 1.0


class Turns:
    """The engine's slots, and the jobs that have or want one.

    Attributes:
        gpu_faults: engines in a row that the GPU failed; each is started anew for it.
        gpu_fault: how it failed the last one.

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
        self._times = RunTimes()
        self._kinds: dict[Job, str] = {}
        self.gpu_faults = 0
        self.gpu_fault = ""
        self._fault_boot = -1

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

    def estimate(self, graph: Any) -> Estimate:
        """Tell how long a graph sent now would take, by the runs of the last hour.

        Args:
            graph: as the caller sent it.
        """
        now = time.monotonic()
        typical = self._times.typical(now) or 0.0
        before_s = 0.0
        for job, kind in self._kinds.items():
            expected = self._times.of(kind, now) or typical
            gone = job.stages_so_far().get(Phase.RUNNING.value, 0.0)
            before_s += max(0.0, expected - gone)
        return Estimate(self._times.of(kind_of(graph), now), before_s)

    async def execute(self, prepared: Prepared, job: Job) -> Ran:
        """Wait for a slot and run; the wait ends when the engine begins, not with the slot.

        Raises:
            QueueTimedOut: the engine was busy for too long.
            HandlerError: as the run ended.
        """
        limits = prepared.request.timeouts
        limit_s = (limits and limits.queue_s) or self._parts.settings.queue_timeout_s
        self._kinds[job] = kind_of(prepared.request.prompt)
        try:
            async with asyncio.timeout(limit_s or None) as wait:
                job.enter(Phase.QUEUED, position=self._slots.waiting + len(self._slots))
                await self._slots.acquire(job)
                ran = await self._run_in_slot(prepared, job, wait)
                self._learn(ran, self._kinds[job])
                return ran
        except TimeoutError as error:
            if not wait.expired():
                raise
            raise QueueTimedOut(
                f"the engine was busy for {limit_s:g} s",
                hint="try another worker, or raise QUEUE_TIMEOUT_S or timeouts.queue_s",
                retry_after_s=self.retry_after_s,
            ) from error
        except asyncio.CancelledError:
            if job.ran is not None and job.ran.started_ms is not None and not job.ran.cold:
                seconds = time.time() - job.ran.started_ms / 1000
                self._times.cut_short(self._kinds[job], seconds, time.monotonic())
            raise
        finally:
            del self._kinds[job]

    def _learn(self, ran: Ran, kind: str) -> None:
        """Take in how long a run took, if that tells what others take."""
        if ran.started_ms is None or ran.ended_ms is None or ran.cold:
            return  # models were read from the disk
        if ran.cached and len(ran.cached) + len(ran.output_nodes) >= len(ran.graph):
            return  # what it makes was there already
        self._times.ran(kind, (ran.ended_ms - ran.started_ms) / 1000, time.monotonic())

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
                return await self._judged(end, recorder.ran)
            raise AssertionError("unreachable")
        finally:
            if held:
                self._slots.release(job)

    async def _judged(self, end: End, ran: Ran) -> Ran:
        """Give what a run told, or raise as it ended.

        After a fault of the GPU all runs fail, for that process: another one gets it back, or shows
        that it is broken.
        """
        try:
            told = judge_end(end, ran)
        except ExecutionFailed as fault:
            if isinstance(fault.details, dict) and fault.details.get("cause") == "gpu_fault":
                boots = self._parts.metrics.boots
                if boots != self._fault_boot:  # others failed with it, in the same process
                    self._fault_boot = boots
                    self.gpu_faults += 1
                self.gpu_fault = shortened(fault.message)
                await self._engine.restart("the GPU failed a run")
                await self._until_down()
            raise
        self.gpu_faults, self.gpu_fault = 0, ""
        return told

    async def _until_down(self) -> None:
        """Wait a moment until the engine is seen to be killed: the next job must not meet it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DOWN_S):
                while True:
                    if self._engine.state is not EngineState.READY:
                        return
                    await asyncio.sleep(0.01)

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
