"""The handler: boots the engine once, then turns payloads into answers.

It is the only writer of job and health state. Everything else it does by calling: the pipeline for
a job's stages, `turns` for the engine, the ledger for what is remembered, `endings` for whoever is
to be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from handler.endings import Endings
from handler.engine.base import Engine, EngineState
from handler.entrance import Entrance, Entry
from handler.errors import (
    Draining,
    HandlerError,
    InternalFault,
    JobCancelled,
    NotFound,
    NotReady,
    QueueFull,
)
from handler.health import Health, HealthReport
from handler.job import Job, JobBoard, JobEvent, shortened
from handler.ledger import Ledger
from handler.log_context import JobMark, speak_of
from handler.models.downloads import Downloads
from handler.payload import PromptRequest, parse_payload
from handler.pipeline.run import run_pipeline
from handler.pipeline.stages import Parts, Received
from handler.pipeline.stats import stats_of_failure
from handler.redelivery import Redelivery
from handler.revival import Revival
from handler.startup import Startup
from handler.stored_jobs import StoredJobs
from handler.submission import Submission
from handler.tracing.tracer import NullTracer
from handler.turns import Turns
from handler.webhook_notes import WebhookNotes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from handler.manifest.start import ManifestStart
    from handler.settings import Settings
    from handler.tracing.tracer import Tracer
    from handler.webhooks import Promised, Webhooks
    from handler.wire import Answer

log = logging.getLogger("comfyfn.service")


class Handler:
    """One worker: `start`, then `handle`, `stream`, `cancel`, `health`; `drain` and `stop`.

    Attributes:
        downloads: model files that are fetched by request.
        stored: jobs as any worker may be asked for them, running or over.
        redelivery: brings kept outputs to a storage.
        revival: around a freeze of the process.
    """

    def __init__(
        self,
        parts: Parts,
        manifest: ManifestStart | None = None,
        *,
        ledger: Ledger | None = None,
        webhooks: Webhooks | None = None,
        tracer: Tracer | NullTracer | None = None,
    ) -> None:
        """Take the wired parts, see `handler.build.build_handler`.

        Args:
            manifest: what is to be installed.
            ledger: what is remembered beyond this process; by default nothing is.
            webhooks: told of the ends of jobs; without, a payload that names one is refused.
            tracer: told of them, too, for spans.
        """
        self._parts = parts
        self._settings = parts.settings
        self._engine: Engine = parts.engine
        self._jobs = JobBoard(parts.settings.job_retention_s)
        self._turns = Turns(parts, self._engine_told_its_nodes)
        self._engine_ready = asyncio.Event()
        self._started = False
        self._draining = False
        self._boot_error: HandlerError | None = None
        self._telling: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[Any]] = set()
        self._ledger = ledger or Ledger()
        self._ledger.cancel = self.cancel
        tracer = tracer or NullTracer()
        self._endings = Endings(parts, self._ledger, webhooks, tracer)
        if webhooks is not None:
            webhooks.tried = WebhookNotes(self._jobs, self._ledger.note).take
        self._entrance = Entrance(
            parts,
            self._jobs,
            self._ledger,
            self._endings,
            tracer,
            admit=self._admit,
            begin=self._begin,
            ready=lambda: self._engine.state is EngineState.READY,
            estimate=self._turns.estimate,
        )
        self.downloads = Downloads(
            parts.models,
            parts.engine,
            ready=self._engine_told_its_nodes,
            admit=parts.downloader.admit,
            retention_s=parts.settings.job_retention_s,
        )
        self.stored = StoredJobs(parts, self._jobs, self._ledger, self.cancel, self.position)
        self.redelivery = Redelivery(parts, self._jobs, self.stored, self._ledger)
        self._startup = Startup(parts, manifest)
        self.revival = Revival(
            parts,
            self._startup,
            self._ledger,
            self._endings,
            idle=lambda: (
                not (self._jobs.active() or self.redelivery.busy or self._entrance.entering)
            ),
        )
        self._engine.prepare(self._engine_changed, self._startup.warm_up, self._startup.may_launch)

    def __repr__(self) -> str:
        return f"<Handler {self.health().health.value} {self._turns}>"

    # -- life -----------------------------------------------------------------------------------

    async def start(self, *, warm: bool = True) -> None:
        """Carry out the manifest, boot the engine and warm up.

        Args:
            warm: False leaves the warmup to `revival.warm_up`.

        Raises:
            BootFailed: the engine cannot be started; `health` tells it, too.
            StateUnavailable: STATE_URL is set, and it is not there; likewise.
        """
        if not warm:
            self._startup.hold_warmup()
        self._parts.events.open()
        self._startup.begin()
        # What an earlier process has left to be told waits for no boot.
        self._telling = asyncio.create_task(self._endings.open(), name="open-outbox")
        try:
            await self._engine.start()
            # Not before: what the engine's boot can be spared is spared.
            await self._ledger.opened()
        except HandlerError as error:
            self._boot_error = error
            self._engine_ready.set()  # whoever waits is told
            await self._startup.give_up()
            self._ledger.begin()  # jobs that an earlier process left are told as failed, too
            raise
        await self._telling
        self._started = True

    async def revive(self, settings: Settings | None = None) -> None:
        """Go on after the process was frozen and thawed, as by FlashBoot or a memory snapshot.

        Cheap and harmless where it was not. Best called between two jobs: those in hand are
        followed on, and the worker keeps its name for them.

        Args:
            settings: read again, for credentials that have changed; None where none have.

        Raises:
            BootFailed: the engine did not answer, and could not be started again.
            SettingsError: credentials are set that cannot be sent.
        """
        await self.revival.revive(settings)

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Refuse new jobs and wait for those in hand, and for who is to be told of them.

        Returns:
            Whether all of them ended in time; those that did not are cancelled.
        """
        self._draining = True
        self.downloads.refuse()
        self.redelivery.refuse()
        loop = asyncio.get_running_loop()
        limit = self._settings.drain_timeout_s if timeout_s is None else timeout_s
        deadline = loop.time() + limit
        tasks = {job.task for job in self._jobs.active() if job.task is not None}
        tasks |= self.downloads.awaited()
        late: set[asyncio.Task[Any]] = set()
        if tasks:
            log.info("draining: %d jobs in hand, at most %g s", len(tasks), limit)
            _, late = await asyncio.wait(tasks, timeout=limit)
            self._stop_jobs()
            await self.downloads.close()
            if late:
                await asyncio.wait(late, timeout=5)
        await self.redelivery.drain(max(1.0, deadline - loop.time()))
        await self._endings.drain(max(1.0, deadline - loop.time()))
        return not late

    async def stop(self) -> None:
        """End everything: jobs in hand are cancelled, the engine is stopped."""
        self._draining = True
        self._stop_jobs()
        tasks = {job.task for job in self._jobs.active() if job.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await self.downloads.close()
        await self.redelivery.close()
        await asyncio.gather(self._startup.stop(), self._engine.stop())
        await self._parts.events.close()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._turns.close()
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)
        await self._endings.close()
        await self._parts.providers.close()
        await self._ledger.close()
        self._parts.converters.shutdown(wait=False, cancel_futures=True)
        await self._parts.media.close()
        await self._parts.downloader.close()
        await self._parts.operator.close()

    # -- jobs -----------------------------------------------------------------------------------

    async def enter(self, payload: Any, how: Submission | None = None) -> Entry:
        """Take a payload: begin a job, or find the one that it is one with.

        Args:
            payload: the decoded JSON body.

        Raises:
            InvalidPayload: it does not fit the schema, or asks for what is not set up here.
            UrlNotAllowed: a URL that outputs or a webhook go to may not be reached.
            Conflict: its id or key stands for another payload.
            QueueFull, Draining, NotReady, StateUnavailable: no job is taken now.
        """
        return await self._entrance.enter(payload, how or Submission())

    def submit(self, payload: Any) -> Job:
        """Begin with a payload, whatever else is under way; who is asked for is told at the end.

        Args:
            payload: the decoded JSON body, or a checked `PromptRequest`.

        Raises:
            InvalidPayload: it does not fit the schema.
            QueueFull, Draining, NotReady: no job is taken now.
        """
        request = payload if isinstance(payload, PromptRequest) else parse_payload(payload)
        self._admit()
        job = self._entrance.make(request, Submission())
        self._begin(job, request, None)
        return job

    def _begin(self, job: Job, request: PromptRequest, promised: Promised | None) -> None:
        if not job.asynchronous:
            job.answered = asyncio.get_running_loop().create_future()
        self._jobs.add(job)
        self._ledger.follow(job)
        work = self._work(Received(job, request), promised)
        job.task = asyncio.create_task(work, name=f"job-{job.id}")
        # A task that is cancelled before its first step runs none of its code.
        job.task.add_done_callback(lambda _: self._over(job, promised, None, _cancelled(job)))

    async def handle(self, payload: Any, how: Submission | None = None) -> Answer:
        """Run a payload to its end. Cancelling this call cancels the job.

        Returns:
            The answer; close it when it is sent.

        Raises:
            HandlerError: as the job ended.
        """
        return await self.answer(await self.enter(payload, how))

    async def answer(self, entry: Entry) -> Answer:
        """Wait for what was entered.

        Raises:
            HandlerError: as the job ended.
        """
        if entry.mine is not None:
            return await self.result(entry.mine)
        try:
            return await self.stored.answer(entry.record, entry.job, entry.head)
        except asyncio.CancelledError:
            if entry.job is not None:
                entry.job.joined -= 1
                self._unless_wanted(entry.job)
            raise

    async def result(self, job: Job) -> Answer:
        """Wait for a job that was begun. Cancelling this call cancels the job.

        One with an idempotency key goes on: whoever lost it comes again for its result. So does
        one that others have joined, until the last of them is gone.
        """
        answered = job.answered
        if answered is None:
            raise NotFound(f"the answer of job {job.id!r} was given already")
        try:
            return await asyncio.shield(answered)
        except asyncio.CancelledError:
            job.answered = None
            self._unless_wanted(job)
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
        """Give the newest job of that id, of those in this process."""
        return self._jobs.find(job_id)

    def position(self, job: Job) -> int | None:
        """How many jobs are before this one; 0 is with the engine."""
        return self._turns.position(job)

    def cancel(self, job_id: str) -> bool:
        """Stop every unfinished job of that id, wherever it is; no other is touched.

        Returns:
            Whether there was one.
        """
        jobs = self._jobs.active(job_id)
        for job in jobs:
            self._cancel(job)
        return bool(jobs)

    def _unless_wanted(self, job: Job) -> None:
        """Cancel a job when the last of its callers has gone."""
        wanted = job.asynchronous or job.answered is not None or job.joined > 0
        if job.key is not None or wanted or job.phase.final:
            return
        if not self._ledger.shared:
            self._cancel(job)
            return
        task = asyncio.create_task(self._unless_wanted_elsewhere(job), name=f"left-{job.id}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _unless_wanted_elsewhere(self, job: Job) -> None:
        if not await self._ledger.wanted(job) and not job.joined:
            self._cancel(job)

    def _stop_jobs(self) -> None:
        for job in self._jobs.active():
            job.stopped = job.stopped or not job.cancel_asked
            self._cancel(job)

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
        if self._boot_error is not None:
            raise NotReady(f"the worker is unhealthy: {self._boot_error.message}")
        limit = self._settings.max_queue_depth
        if limit and self.waiting() >= limit:
            raise QueueFull(
                f"{limit} jobs wait already",
                hint="try again later or add workers; MAX_QUEUE_DEPTH sets the limit",
                retry_after_s=self._turns.retry_after_s,
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

    async def _work(self, received: Received, promised: Promised | None) -> None:
        job = received.job
        speak_of(JobMark(job.id, job.trace.trace_id))
        try:
            answer = await run_pipeline(
                received,
                self._parts,
                lambda prepared: self._turns.execute(prepared, job),
                ready=self._engine_told_its_nodes,
                keep=self._endings.keep,
            )
        except HandlerError as error:
            self._over(job, promised, None, error)
        except asyncio.CancelledError:
            self._over(job, promised, None, _cancelled(job))
        except Exception as error:
            log.exception("job %s: a fault of ours", job.id)
            self._over(job, promised, None, InternalFault.of(error))
        else:
            lost = self._endings.lost(job, promised)
            if lost is not None:
                await answer.close()
            self._over(job, promised, answer if lost is None else None, lost)

    def _over(
        self,
        job: Job,
        promised: Promised | None,
        answer: Answer | None,
        error: HandlerError | None,
    ) -> None:
        """Take in how a job ended, once, and have whoever waits told."""
        if job.phase.final:
            return
        if answer is not None:
            log.info("job %s: %s outputs, %s", job.id, len(answer.outputs), _times(job))
            job.succeed(answer.outputs, answer.tail.get("stats"))
        elif error is not None:
            error = error.with_stats(stats_of_failure(job, self._parts, job.ran))
            job.fail(error)
            log.warning("job %s: %s: %s", job.id, error.code, shortened(error.message))
        hand_over = partial(self._hand_over, job, answer, error)
        self._endings.over(job, promised, answer, error, hand_over=hand_over)

    def _hand_over(self, job: Job, answer: Answer | None, error: HandlerError | None) -> bool:
        """Give the end to who waits on a connection; tell whether somebody does."""
        answered = job.answered
        if answered is None or answered.done():
            return False
        if error is not None:
            answered.set_exception(error)
            answered.exception()  # read once: an answer nobody waits for is no loose end
        else:
            assert answer is not None
            answered.set_result(answer)
        return True

    # -- the engine -------------------------------------------------------------------------------

    async def _engine_told_its_nodes(self) -> None:
        """Wait until the engine has booted once; a boot that failed is told."""
        await self._engine_ready.wait()
        if self._engine.state is EngineState.FAILED:
            raise self._not_ready()

    def _engine_changed(self, state: EngineState) -> None:
        self._parts.metrics.engine_changed(state.value)
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
            gpu_faults=self._turns.gpu_faults,
            gpu_fault=self._turns.gpu_fault,
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

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Give the figures for Prometheus, and their content type.

        Args:
            accept: the scraper's header, which may ask for OpenMetrics.
        """
        from handler.exposition import expose  # prometheus_client loads with the first scrape

        letters = await self._endings.letters()
        dropped = self._parts.events.dropped
        return await expose(
            self._parts, self.health(), letters=letters, events_dropped=dropped, accept=accept
        )

    async def models(self) -> dict[str, list[str]]:
        """List the model files of every folder."""
        await self._engine_told_its_nodes()
        return await self._engine.models()


def _cancelled(job: Job) -> HandlerError:
    """Tell why a job was ended; who comes again for it must not find that it was cancelled."""
    if job.stopped and (job.asynchronous or job.key is not None):
        return Draining("the worker was stopped before the job was over", hint="send it again")
    return JobCancelled("the job was cancelled" if job.cancel_asked else "the server stops")


def _times(job: Job) -> str:
    with contextlib.suppress(TypeError):
        return orjson.dumps({k: round(v, 3) for k, v in job.stage_s.items()}).decode()
    return ""
