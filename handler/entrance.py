"""How a payload becomes a job: run, joined to one under way, or answered from what is known.

who sends                    is answered by
a key, a webhook, `async`    the ledger, which all workers may share
an id only                   the jobs of this process, or of all where they share the ledger
none of it                   a run of its own
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.answer_limit import refusal_of
from handler.endpoints import Endpoints, calls_endpoint
from handler.errors import Conflict, HandlerError, InvalidPayload, StateUnavailable
from handler.job import Job, Phase, shortened
from handler.payload import PromptRequest, parse_payload
from handler.pipeline.echo import echo
from handler.run_times import Estimate
from handler.state.records import JobRecord, payload_digest

if TYPE_CHECKING:
    from handler.endings import Endings
    from handler.job import JobBoard
    from handler.ledger import Ledger
    from handler.pipeline.stages import Parts
    from handler.state.admission import Entered
    from handler.submission import Submission
    from handler.tracing.tracer import NullTracer, Tracer
    from handler.webhooks import Promised

log = logging.getLogger("comfyfn.service")
Begin = Callable[[Job, PromptRequest, "Promised | None"], None]
CHECK_WITHIN_S = 5.0
"""A 202 waits so long for the graph to be checked: a fault of the caller's is told at once."""
LARGE_CHARS = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a payload.

    Attributes:
        id: of the job that gives its answer.
        mine: the job that was begun for it; None where it is one with another.
        job: the same, or the one it joined, where that is in this process.
        record: of the run it is one with, where that is or was in another process.
        head: the request as answers repeat it.
        asynchronous: answered with 202: nobody waits on a connection.
    """

    id: str
    mine: Job | None
    job: Job | None
    record: JobRecord | None
    head: dict[str, Any] = field(repr=False)
    asynchronous: bool = False

    @property
    def accepted(self) -> dict[str, Any]:
        """The body of a 202."""
        return {**self.head, "status": "ok"}


class Entrance:
    """Decides, and begins.

    Args:
        admit: raises where no job is taken now.
        begin: begins a job's work.
        ready: whether the engine runs, so that a graph is checked without waiting.
        estimate: tells how long a graph sent now would take.
    """

    def __init__(
        self,
        parts: Parts,
        jobs: JobBoard,
        ledger: Ledger,
        endings: Endings,
        tracer: Tracer | NullTracer,
        *,
        admit: Callable[[], None],
        begin: Begin,
        ready: Callable[[], bool],
        estimate: Callable[[Any], Estimate] = lambda _graph: Estimate(),
    ) -> None:
        self._parts = parts
        self._jobs = jobs
        self._ledger = ledger
        self._endings = endings
        self._tracer = tracer
        self._endpoints = Endpoints(parts.settings.workflow_dir)
        self._begun = 0
        self._admit = admit
        self._begin = begin
        self._ready = ready
        self._estimate = estimate
        self._entering: list[str] = []

    @property
    def entering(self) -> bool:
        """Whether a job is being written down or promised a webhook, and has not begun yet."""
        return bool(self._entering)

    async def enter(self, payload: Any, how: Submission) -> Entry:
        """See `Handler.enter`."""
        begun = self._begun
        try:
            return await self._enter(payload, how)
        except HandlerError as fault:
            if begun == self._begun:  # else the job's own end is in the log
                level = logging.INFO if fault.status < 500 else logging.WARNING
                place = f" ({fault.location})" if fault.location else ""
                told = shortened(fault.message)
                log.log(level, "a payload is refused: %s%s: %s", fault.code, place, told)
                self._parts.metrics.refused(fault.code, how.adapter)
            raise

    async def _check(self, request: PromptRequest, *, asynchronous: bool) -> None:
        """Make sure that the outputs can go where they are to go, and that somebody is told.

        Raises:
            InvalidPayload, UrlNotAllowed: they cannot.
            StateUnavailable: nobody could ask for the result.
        """
        if request.targets:
            await self._parts.providers().check(request.targets)
        await self._endings.check(request)
        told = request.targets or request.webhook or request.webhook_v2
        if not asynchronous or told:
            return
        if self._parts.settings.output_retention_s <= 0:
            raise InvalidPayload(
                "a job that nobody waits for needs an upload or a webhook here: results are not "
                "kept",
                hint="OUTPUT_RETENTION_S=0 says so; name a target or a webhook, or wait",
            )
        if not self._ledger.remembers:
            raise StateUnavailable(
                "nobody could ask for the result: state cannot be kept",
                hint="is STATE_DIR writable? With an upload or a webhook it is not needed",
            )

    async def _enter(self, payload: Any, how: Submission) -> Entry:
        if calls_endpoint(payload):
            payload = await self._endpoints.resolve(payload)
        request = parse_payload(payload)
        asynchronous = not how.waits and (how.respond_async or request.asynchronous)
        late = None
        if how.answer_within_s and not asynchronous and not how.waits:
            late = refusal_of(self._estimate(request.prompt), how.answer_within_s)
        if late is not None and request.targets:  # the caller has the outputs without an answer
            asynchronous, late = True, None
        recorded = asynchronous or how.key is not None or self._ledger.shared
        digest = ""
        if recorded or request.id is not None:
            digest = await _digest(payload)
        job = self.make(request, how, digest, asynchronous=asynchronous)
        if not recorded:
            await self._check(request, asynchronous=False)
            if job.id not in self._entering:
                return self._enter_here(job, request, late)
        self._entering.append(job.id)
        try:
            return await self._enter_recorded(job, request, late)
        finally:
            self._entering.remove(job.id)

    def make(
        self,
        request: PromptRequest,
        how: Submission,
        digest: str = "",
        *,
        asynchronous: bool = False,
    ) -> Job:
        """Make a job of a request."""
        limits = [self._parts.settings.inline_max_mb << 20, how.inline_bytes]
        return Job(
            uid=uuid.uuid4().hex,
            id=request.id or str(uuid.uuid4()),
            wants_previews=request.previews,
            adapter=how.adapter,
            digest=digest,
            key=how.key,
            retries=how.retries,
            asynchronous=asynchronous,
            inline_bytes=min(filter(None, limits), default=0),
            trace=self._tracer.begin(how.traceparent),
        )

    def _start(self, job: Job, request: PromptRequest, promised: Promised | None) -> None:
        self._begun += 1
        self._begin(job, request, promised)

    def _admit_all(self, late: HandlerError | None) -> None:
        self._admit()
        if late is not None:
            raise late

    def _enter_here(self, job: Job, request: PromptRequest, late: HandlerError | None) -> Entry:
        """Take in what concerns nobody but this process."""
        for other in self._same(job, request):
            if self._keeps and self._joinable(other):
                return self._joined(other, None, request, job)
        self._admit_all(late)
        self._start(job, request, None)
        return self._mine(job, request)

    async def _enter_recorded(
        self, job: Job, request: PromptRequest, late: HandlerError | None
    ) -> Entry:
        """Take in what other workers, or a later process, may be asked for."""
        refused: HandlerError | None = None
        try:
            await self._check(request, asynchronous=job.asynchronous)
            self._admit_all(late)
        except HandlerError as fault:
            if job.key is None:
                raise
            refused = fault
        entered = await self._enter_ledger(job, request, known_only=refused is not None)
        if entered is None and refused is not None:
            raise refused
        if entered is not None and entered.record.uid != job.uid:
            other = self._jobs.by_uid(entered.record.uid)
            return self._joined(other, entered.record, request, job)
        promised: Promised | None = None
        try:
            promised = await self._endings.promise(job, request)
            self._admit()
        except BaseException as fault:
            error = fault if isinstance(fault, HandlerError) else None
            self._endings.never_begun(job, promised, error)
            raise
        if job.asynchronous:
            self._endings.accepting(job)
            self._start(job, request, promised)
            await self._accept(job, promised)
        else:
            self._start(job, request, promised)
        return self._mine(job, request)

    async def _enter_ledger(
        self, job: Job, request: PromptRequest, *, known_only: bool
    ) -> Entered | None:
        """Enter a job into the ledger, which then knows those of its id that run here."""
        joinable: list[Job] = []
        last = self._jobs.find(request.id) if request.id is not None else None
        if last is not None and last.phase.final:
            await self._ledger.written(last.uid)  # else it stands in the way a moment longer
        try:
            for other in self._same(job, request):
                if self._joinable(other):
                    other.joined += 1  # its outputs are kept, should this one join it
                    joinable.append(other)
                    await self._ledger.begun(other)
                else:
                    await other.ended()
            entered = await self._ledger.enter(job, known_only=known_only)
            if entered is not None and self._is_over(entered):
                await self._ledger.written(entered.record.uid)
                entered = await self._ledger.enter(job, known_only=known_only)
            return entered
        finally:
            for other in joinable:
                other.joined -= 1

    def _same(self, job: Job, request: PromptRequest) -> list[Job]:
        """List the jobs under way here that were sent with the same id.

        Raises:
            Conflict: with another payload.
        """
        if request.id is None:
            return []
        others = self._jobs.active(request.id)
        if any(other.digest != job.digest for other in others):
            raise Conflict(
                "this id stands for another payload, which is under way",
                location="id",
                hint="send another id, or the same payload as before",
            )
        return others

    def _is_over(self, entered: Entered) -> bool:
        """Whether a run that was joined has ended here, and its record does not say so yet."""
        other = self._jobs.by_uid(entered.record.uid)
        return other is not None and other.phase.final and not entered.record.final

    def _joinable(self, other: Job) -> bool:
        """Whether the outputs of a job under way will be there for one more caller."""
        return other.joinable or (self._endings.keeps(other) and not other.cancel_asked)

    @property
    def _keeps(self) -> bool:
        """Whether a result can be had by who did not wait for it from the beginning."""
        return self._ledger.remembers and self._parts.settings.output_retention_s > 0

    async def _accept(self, job: Job, promised: Promised | None) -> None:
        """Wait until the graph is checked, where that is soon: its faults are told here."""
        try:
            if self._ready():
                await job.left(Phase.RECEIVED, CHECK_WITHIN_S)
        except asyncio.CancelledError:
            self._endings.unheard(job, promised)
            raise
        error = await self._endings.accepted(job, promised)
        if error is not None:
            raise error

    def _mine(self, job: Job, request: PromptRequest) -> Entry:
        # Who waits is answered with what the run makes of the request.
        head = echo(request, job.id, request.prompt) if job.asynchronous else {}
        return Entry(job.id, job, job, None, head, job.asynchronous)

    def _joined(
        self, other: Job | None, record: JobRecord | None, request: PromptRequest, job: Job
    ) -> Entry:
        if other is not None:
            other.joined += 1
        job_id = other.id if other is not None else record.id if record is not None else job.id
        head = echo(request, job_id, request.prompt)
        return Entry(job_id, None, other, record, head, job.asynchronous)


async def _digest(payload: dict[str, Any]) -> str:
    """Tell a payload from others; in a thread where that takes more than a moment.

    Raises:
        InvalidPayload: nothing that is nested so deeply can be written as JSON.
    """
    nodes = payload["prompt"].values() if isinstance(payload["prompt"], dict) else ()
    inputs = (node.get("inputs") for node in nodes if isinstance(node, dict))
    chars = sum(
        len(value)
        for one in inputs
        if isinstance(one, dict)
        for value in one.values()
        if isinstance(value, str)
    )
    try:
        if chars > LARGE_CHARS:
            return await asyncio.to_thread(payload_digest, payload)
        return payload_digest(payload)
    except ValueError as error:
        raise InvalidPayload(f"the payload is {error}") from error
