"""The handler: boots the engine once, then turns payloads into answers.

It is the only writer of job and health state and owns the engine's slots. Everything else it does
by calling: the pipeline for a job's stages, the engine for runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

from handler.engine.base import Engine, EngineState, GraphRefused, NeverStarted
from handler.engine.events import Started
from handler.errors import (
    Draining,
    HandlerError,
    InternalFault,
    JobCancelled,
    NotFound,
    NotReady,
    QueueFull,
    QueueTimedOut,
)
from handler.health import Health, HealthReport
from handler.job import Job, JobBoard, JobEvent, Phase, shortened
from handler.models.downloads import Downloads
from handler.payload import PromptRequest, parse_payload
from handler.pipeline.execute import Recorder, engine_prompt, judge_end
from handler.pipeline.faults import graph_refused
from handler.pipeline.run import run_pipeline
from handler.pipeline.stages import Parts, Prepared, Ran, Received
from handler.slots import Slots
from handler.startup import Startup
from handler.wind_down import WindDowns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from handler.engine.base import OnEvent
    from handler.engine.events import EngineEvent
    from handler.manifest.start import ManifestStart
    from handler.wire import Answer

log = logging.getLogger("comfyfn.service")
RESUBMITS = 3


class Handler:
    """One worker: `start`, then `handle`, `stream`, `cancel`, `health`; `drain` and `stop`."""

    def __init__(self, parts: Parts, manifest: ManifestStart | None = None) -> None:
        """Take the wired parts, see `handler.build.build_handler`, and what is to be installed."""
        self._parts = parts
        self._settings = parts.settings
        self._engine: Engine = parts.engine
        self._jobs = JobBoard(parts.settings.job_retention_s)
        self._slots: Slots[Job] = Slots(parts.settings.engine_prefetch, self._moved)
        self._engine_ready = asyncio.Event()
        self._started = False
        self._draining = False
        self._boot_error: HandlerError | None = None
        self._busy_s: deque[float] = deque(maxlen=32)
        self._winding_down = WindDowns(parts, self._slots)
        self._closing: set[asyncio.Task[Any]] = set()
        self.downloads = Downloads(
            parts.models,
            parts.engine,
            ready=self._engine_told_its_nodes,
            admit=parts.downloader.admit,
            retention_s=parts.settings.job_retention_s,
        )
        self._startup = Startup(parts, manifest)
        self._engine.prepare(self._engine_changed, self._startup.warm_up, self._startup.may_launch)

    def __repr__(self) -> str:
        return f"<Handler {self.health().health.value} {self._slots}>"

    # -- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Carry out the manifest, boot the engine and warm up.

        Raises:
            BootFailed: the engine cannot be started; `health` tells it, too.
        """
        self._startup.begin()
        try:
            await self._engine.start()
        except HandlerError as error:
            self._boot_error = error
            self._engine_ready.set()  # whoever waits is told
            await self._startup.give_up()
            raise
        self._started = True

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Refuse new jobs and wait for those in hand.

        Returns:
            Whether all of them ended in time; those that did not are cancelled.
        """
        self._draining = True
        self.downloads.refuse()
        limit = self._settings.drain_timeout_s if timeout_s is None else timeout_s
        tasks = {job.task for job in self._jobs.active() if job.task is not None}
        tasks |= self.downloads.awaited()
        if tasks:
            log.info("draining: %d jobs in hand, at most %g s", len(tasks), limit)
            _, late = await asyncio.wait(tasks, timeout=limit)
            for job in self._jobs.active():
                self._cancel(job)
            await self.downloads.close()
            if late:
                await asyncio.wait(late, timeout=5)
            return not late
        return True

    async def stop(self) -> None:
        """End everything: jobs in hand are cancelled, the engine is stopped."""
        self._draining = True
        for job in self._jobs.active():
            self._cancel(job)
        tasks = {job.task for job in self._jobs.active() if job.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await self.downloads.close()
        await asyncio.gather(self._startup.stop(), self._engine.stop())
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._winding_down.close()
        self._parts.converters.shutdown(wait=False, cancel_futures=True)
        await self._parts.media.close()
        await self._parts.downloader.close()
        await self._parts.operator.close()

    # -- jobs -----------------------------------------------------------------------------------

    def submit(self, payload: Any) -> Job:
        """Take a payload and begin with it.

        Args:
            payload: the decoded JSON body, or a checked `PromptRequest`.

        Raises:
            InvalidPayload: it does not fit the schema.
            QueueFull, Draining, NotReady: no job is taken now.
        """
        request = payload if isinstance(payload, PromptRequest) else parse_payload(payload)
        self._admit()
        job = Job(
            uid=uuid.uuid4().hex,
            id=request.id or str(uuid.uuid4()),
            wants_previews=request.previews,
        )
        job.answered = asyncio.get_running_loop().create_future()
        self._jobs.add(job)
        job.task = asyncio.create_task(self._work(Received(job, request)), name=f"job-{job.id}")
        # A task that is cancelled before its first step runs none of its code.
        job.task.add_done_callback(lambda _: self._end(job, JobCancelled("the job was cancelled")))
        return job

    async def handle(self, payload: Any) -> Answer:
        """Run a payload to its end. Cancelling this call cancels the job.

        Returns:
            The answer; close it when it is sent.

        Raises:
            HandlerError: as the job ended.
        """
        return await self.result(self.submit(payload))

    async def result(self, job: Job) -> Answer:
        """Wait for a submitted job. Cancelling this call cancels the job."""
        answered = job.answered
        if answered is None:
            raise NotFound(f"the answer of job {job.id!r} was given already")
        try:
            return await asyncio.shield(answered)
        except asyncio.CancelledError:
            self._cancel(job)
            answered.add_done_callback(self._close_unclaimed)
            raise
        finally:
            # The record stays for an hour; a result, and what an error's frames hold, must not.
            job.answered = None

    async def stream(self, payload: Any) -> AsyncIterator[JobEvent | Answer]:
        """Run a payload and give its events as they happen, its answer last.

        Raises:
            HandlerError: as the job ended, after its last event.
        """
        job = self.submit(payload)
        try:
            async for event in job.follow():
                yield event
            yield await self.result(job)
        finally:
            self._cancel(job)
            if job.answered is not None:
                job.answered.add_done_callback(self._close_unclaimed)
                job.answered = None

    def find(self, job_id: str) -> Job | None:
        """Give the newest job of that id."""
        return self._jobs.find(job_id)

    def position(self, job: Job) -> int | None:
        """How many jobs are before this one; 0 is with the engine."""
        return self._slots.position(job)

    def cancel(self, job_id: str) -> bool:
        """Stop every unfinished job of that id, wherever it is; no other is touched.

        Returns:
            Whether there was one.
        """
        jobs = self._jobs.active(job_id)
        for job in jobs:
            self._cancel(job)
        return bool(jobs)

    def _cancel(self, job: Job) -> None:
        if not job.phase.final and job.task is not None and not job.cancel_asked:
            job.cancel_asked = True
            job.task.cancel()

    def _close_unclaimed(self, answered: asyncio.Future[Answer]) -> None:
        if not answered.cancelled() and answered.exception() is None:
            task = asyncio.ensure_future(answered.result().close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _admit(self) -> None:
        if self._draining:
            raise Draining("this worker is on its way down", retry_after_s=1)
        if self._engine.state in (EngineState.FAILED, EngineState.STOPPED):
            raise self._not_ready()
        limit = self._settings.max_queue_depth
        if limit and self.waiting() >= limit:
            raise QueueFull(
                f"{limit} jobs wait already",
                hint="try again later or add workers; MAX_QUEUE_DEPTH sets the limit",
                retry_after_s=self._retry_after_s(),
            )

    def _not_ready(self) -> NotReady:
        told = self._engine.boot_report.get("error") or {}
        return NotReady(
            f"the engine is {self._engine.state.value}: {self._engine.reason}",
            hint=told.get("hint"),
            log_tail=told.get("log_tail"),
        )

    def waiting(self) -> int:
        """Count the jobs that have the engine still before them."""
        return sum(job.waiting for job in self._jobs.active())

    def _retry_after_s(self) -> float:
        typical = statistics.median(self._busy_s) if self._busy_s else 1.0
        return max(1.0, round(typical, 1))

    async def _work(self, received: Received) -> None:
        job = received.job
        try:
            answer = await run_pipeline(
                received,
                self._parts,
                lambda p: self._execute(p, job),
                ready=self._engine_told_its_nodes,
            )
        except HandlerError as error:
            self._end(job, error)
        except asyncio.CancelledError:
            why = "the job was cancelled" if job.cancel_asked else "the server stops"
            self._end(job, JobCancelled(why))
        except Exception as error:
            log.exception("job %s: a fault of ours", job.id)
            self._end(job, InternalFault.of(error))
        else:
            log.info("job %s: %s outputs, %s", job.id, len(answer.outputs), _times(job))
            job.succeed(answer.outputs)
            if job.answered is None:  # nobody waits any more
                await answer.close()
            else:
                job.answered.set_result(answer)

    def _end(self, job: Job, error: HandlerError) -> None:
        if job.phase.final:
            return
        job.fail(error)
        log.warning("job %s: %s: %s", job.id, error.code, shortened(error.message))
        if job.answered is not None and not job.answered.done():
            job.answered.set_exception(error)
            job.answered.exception()  # read once: an answer nobody waits for is no loose end

    # -- the engine -------------------------------------------------------------------------------

    async def _engine_told_its_nodes(self) -> None:
        """Wait until the engine has booted once; a boot that failed is told."""
        await self._engine_ready.wait()
        if self._engine.state is EngineState.FAILED:
            raise self._not_ready()

    async def _execute(self, prepared: Prepared, job: Job) -> Ran:
        """Wait for a slot and run; the wait ends when the engine begins, not with the slot."""
        limits = prepared.request.timeouts
        limit_s = (limits and limits.queue_s) or self._settings.queue_timeout_s
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
                retry_after_s=self._retry_after_s(),
            ) from error

    async def _run_in_slot(self, prepared: Prepared, job: Job, wait: asyncio.Timeout) -> Ran:
        """Run and give the slot back; a prompt that never began is sent again."""
        held = True
        try:
            for attempt in range(RESUBMITS):
                await self._engine_told_its_nodes()
                recorder = Recorder(prepared, job, self._parts)
                prompt = engine_prompt(prepared, uuid.uuid4().hex, self._parts)
                listener = _until_started(wait, recorder)
                run = asyncio.create_task(self._engine.run(prompt, listener))
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

    def _moved(self, job: Job, position: int) -> None:
        if job.followed:
            job.tell("phase", {"phase": job.phase.value, "position": position})

    def _engine_changed(self, state: EngineState) -> None:
        if state in (EngineState.READY, EngineState.FAILED):
            self._engine_ready.set()
        else:
            self._engine_ready.clear()

    # -- state ------------------------------------------------------------------------------------

    def health(self) -> HealthReport:
        """Tell how the worker is."""
        health, reason = self._judge()
        active = self._jobs.active()
        waiting = sum(job.waiting for job in active)
        return HealthReport(
            health=health,
            reason=reason,
            started=self._started,
            engine={
                "kind": self._engine.kind,
                "version": self._engine.version,
                "state": self._engine.state.value,
            },
            waiting=waiting,
            running=len(active) - waiting,
            boot=self._startup.report(),
        )

    def _judge(self) -> tuple[Health, str | None]:
        state, reason = self._engine.state, self._engine.reason
        if state is EngineState.FAILED or self._boot_error is not None:
            return Health.UNHEALTHY, reason or str(self._boot_error)
        if state is EngineState.STOPPED:
            return Health.STOPPED, reason
        if self._draining:
            return Health.DRAINING, "the server is on its way down"
        if state is EngineState.STARTING:
            return Health.STARTING, self._startup.reason() or reason
        if state is EngineState.RESTARTING:
            return Health.RECOVERING, reason
        limit = self._settings.max_queue_depth
        if limit and self.waiting() >= limit:
            return Health.OVERLOADED, f"{self.waiting()} jobs wait"
        return Health.READY, None

    async def models(self) -> dict[str, list[str]]:
        """List the model files of every folder."""
        await self._engine_told_its_nodes()
        return await self._engine.models()


def _until_started(wait: asyncio.Timeout, recorder: Recorder) -> OnEvent:
    """Lift the limit on the wait when the run begins."""

    def listen(event: EngineEvent) -> None:
        if isinstance(event, Started):
            with contextlib.suppress(RuntimeError):  # it has just expired, or the job is over
                wait.reschedule(None)
        recorder(event)

    return listen


def _times(job: Job) -> str:
    with contextlib.suppress(TypeError):
        return orjson.dumps({k: round(v, 3) for k, v in job.stage_s.items()}).decode()
    return ""
