"""One job: its phase, its events, its end. Only the service writes; everybody may follow."""

from __future__ import annotations

import asyncio
import collections
import enum
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, JobCancelled
from handler.trace import Trace, begin_trace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from handler.records import Output
    from handler.wire import Answer

EVENTS_KEPT = 512
FRESH_JOBS = 64
RECORD_TEXT_CHARS = 4096


class Phase(enum.Enum):
    """Where a job is. The last three are final."""

    RECEIVED = "received"
    """The payload is taken and being checked."""
    FETCHING = "fetching"
    """Inputs are brought here; needs no engine."""
    QUEUED = "queued"
    """Waits for the engine, which has other work or is not ready."""
    RUNNING = "running"
    """The engine runs the graph."""
    COLLECTING = "collecting"
    """Outputs are read and described."""
    CONVERTING = "converting"
    """Outputs are converted as asked."""
    DELIVERING = "delivering"
    """The answer is made."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self in _FINAL


_FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})
_WAITING = frozenset({Phase.RECEIVED, Phase.FETCHING, Phase.QUEUED})
_BEFORE_ITS_END = _WAITING | {Phase.RUNNING}
_PLACES = {"download": ("node_id", "input"), "upload": ("target", "filename")}
_STEPS = frozenset({"progress", *_PLACES})


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What a follower is told.

    Attributes:
        seq: counts from 1 within the job.
        type: `phase`, `download`, `progress`, `output`, `preview`, `upload`, or the end:
            `succeeded`, `failed`, `cancelled`.
        data: JSON-safe.
    """

    seq: int
    type: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.type in {"succeeded", "failed", "cancelled"}


@dataclass(slots=True, eq=False)
class Job:
    """A job in hand or finished.

    Attributes:
        uid: ours, unguessable; names folders and the engine's prompt.
        id: the caller's, or drawn.
        wants_previews: whether a follower asked for pictures of the work so far.
        adapter: who took it, `http`.
        digest: of the payload, where another one with the same id or key must be told from it.
        key: the idempotency key with its scope; None for none.
        retries: as `Submission.retries`.
        asynchronous: nobody waits on a connection: it is told by webhook, or asked for.
        inline_bytes: the most that its answer may hold; 0 for no limit.
        trace: its span, in the caller's trace where there is one.
        ran: what its run told, until whoever counts it has seen it.
        joined: how many callers more wait for the same run.
        stage_s: seconds spent in each phase.
        stats: the answer's, or the error's.
        redelivery: how the newest one ended.
        webhooks: what came of each, by the request's keys.
        kept: the names that its outputs are kept under, output by output; "" for not kept.
        strays: the run's files outside the job's own folder.
        listener: told every event, beside the followers.
        stopped: it was ended with the worker, by nobody's wish.
    """

    uid: str
    id: str
    wants_previews: bool = False
    adapter: str = "http"
    digest: str = ""
    key: str | None = field(default=None, repr=False)
    retries: bool = False
    asynchronous: bool = False
    inline_bytes: int = 0
    trace: Trace = field(default_factory=begin_trace, repr=False)
    ran: Any = field(default=None, repr=False)
    joined: int = 0
    stats: dict[str, Any] = field(default_factory=dict, repr=False)
    redelivery: dict[str, Any] | None = field(default=None, repr=False)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    kept: tuple[str, ...] = ()
    listener: Callable[[JobEvent], None] | None = field(default=None, repr=False)
    phase: Phase = Phase.RECEIVED
    created_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    error: HandlerError | None = None
    stage_s: dict[str, float] = field(default_factory=dict)
    strays: set[Path] = field(default_factory=set)
    cancel_asked: bool = False
    stopped: bool = False
    task: asyncio.Task[Any] | None = None
    answered: asyncio.Future[Answer] | None = None
    _seq: int = 0
    _mark: float = field(default_factory=time.monotonic)
    _events: collections.deque[JobEvent] = field(
        default_factory=lambda: collections.deque(maxlen=EVENTS_KEPT)
    )
    _followers: set[asyncio.Event] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.phase.value}>"

    @property
    def waiting(self) -> bool:
        """Whether it still has the engine before it."""
        return self.phase in _WAITING

    @property
    def joinable(self) -> bool:
        """Whether one more caller may have its result: what becomes of it is not decided yet."""
        return self.phase in _BEFORE_ITS_END and not self.cancel_asked

    @property
    def events(self) -> list[JobEvent]:
        """The events that are remembered, oldest first."""
        return list(self._events)

    @property
    def followed(self) -> bool:
        """Whether somebody listens right now."""
        return bool(self._followers)

    def enter(self, phase: Phase, **data: Any) -> None:
        """Go to the next phase; a final one stays."""
        if self.phase.final or phase is self.phase:
            return
        now = time.monotonic()
        name = self.phase.value
        self.stage_s[name] = self.stage_s.get(name, 0.0) + now - self._mark
        self._mark = now
        self.phase = phase
        if phase.final:
            self.finished_at = time.time()
        self.tell(phase.value if phase.final else "phase", {"phase": phase.value, **data})

    def stages_so_far(self) -> dict[str, float]:
        """Give `stage_s` with the phase that it is in."""
        name = self.phase.value
        now = 0.0 if self.phase.final else time.monotonic() - self._mark
        return {**self.stage_s, name: self.stage_s.get(name, 0.0) + now}

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Give an event to the followers; of all but pictures, long texts are cut."""
        self._seq += 1
        if len(self._events) == EVENTS_KEPT:
            self._drop_a_step()
        if kind == "preview":
            self._keep_events(lambda event: event.type != "preview")  # only the newest is news
        elif kind in _PLACES:  # likewise, of each file
            place = [data[key] for key in _PLACES[kind]]
            self._keep_events(
                lambda event: (
                    event.type != kind or [event.data[key] for key in _PLACES[kind]] != place
                )
            )
        event = JobEvent(self._seq, kind, data if kind == "preview" else shortened(data))
        self._events.append(event)
        for follower in self._followers:
            follower.set()
        if self.listener is not None:
            self.listener(event)

    def hold(self, outputs: Sequence[Output], names: Sequence[str] = ()) -> None:
        """Take what came out into the record: of long texts the beginning, of links the place.

        Args:
            names: what each is kept under, "" for not kept; none where nothing is.
        """
        self.outputs = [_brief(output) for output in outputs]
        self.kept = tuple(names) or ("",) * len(outputs)

    def succeed(self, outputs: list[Output], stats: dict[str, Any] | None = None) -> None:
        """End the job with its outputs."""
        self.hold(outputs, self.kept if len(self.kept) == len(outputs) else ())
        self.stats = stats or {}
        self.enter(Phase.SUCCEEDED, outputs=self.public_outputs())

    def public_outputs(self) -> list[dict[str, Any]]:
        """Give the outputs as they are told, with the names of those that can be fetched."""
        return [
            {**output.public(), "name": name} if name else output.public()
            for output, name in zip(self.outputs, self.kept, strict=True)
        ]

    def _drop_a_step(self) -> None:
        """Make room: steps of progress go before anything that tells what happened."""
        for index, event in enumerate(self._events):
            if event.type in _STEPS:
                del self._events[index]
                return

    def compact(self) -> None:
        """Keep the events that tell what happened, without the steps in between."""
        self._keep_events(lambda event: event.type not in _STEPS and event.type != "preview")

    def _keep_events(self, wanted: Callable[[JobEvent], bool]) -> None:
        self._events = collections.deque(filter(wanted, self._events), maxlen=EVENTS_KEPT)

    def fail(self, error: HandlerError) -> None:
        """End the job with an error; only the first one counts."""
        if self.phase.final:
            return
        self.error = kept = error.detached()
        if kept.stats is not None:
            self.stats, kept.stats = kept.stats, None
        vars(kept).update(shortened(vars(kept)))
        kept.args = (kept.message,)
        final = Phase.CANCELLED if isinstance(error, JobCancelled) else Phase.FAILED
        self.enter(final, **kept.envelope())

    async def follow(self, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Give every event from `after` on until the final one.

        Events older than the last 512 are gone; the order is never broken.
        """
        woken = asyncio.Event()
        self._followers.add(woken)
        try:
            while True:
                woken.clear()
                for event in [e for e in self._events if e.seq > after]:
                    after = event.seq
                    yield event
                    if event.final:
                        return
                if self.phase.final and after >= self._seq:
                    return
                await woken.wait()
        finally:
            self._followers.discard(woken)

    async def left(self, phase: Phase, timeout_s: float | None = None) -> None:
        """Wait until the job is beyond a phase it is in, or a time is over."""
        woken = asyncio.Event()
        self._followers.add(woken)
        try:
            async with asyncio.timeout(timeout_s):
                while self.phase is phase:
                    woken.clear()
                    await woken.wait()
        except TimeoutError:
            pass
        finally:
            self._followers.discard(woken)

    async def ended(self) -> None:
        """Wait until the job is over."""
        while not self.phase.final:
            await self.left(self.phase)

    def public(self) -> dict[str, Any]:
        """Give what `GET /jobs/{id}` answers."""
        return {
            "id": self.id,
            "status": self.phase.value,
            "created_at": round(self.created_at, 3),
            "finished_at": self.finished_at and round(self.finished_at, 3),
            "progress": self.progress or None,
            "outputs": self.public_outputs(),
            "stats": self.stats or None,
            "error": self.error.envelope() if self.error else None,
            "redelivery": self.redelivery,
            "webhooks": self.webhooks or None,
            "stage_s": {name: round(s, 4) for name, s in self.stage_s.items()},
        }


def shortened(value: Any) -> Any:
    """Give a value with long texts and long lists cut, at any depth, for events and records."""
    if isinstance(value, str):
        return value[:RECORD_TEXT_CHARS]
    if isinstance(value, dict):
        return {key: shortened(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(entry) for entry in value[:RECORD_TEXT_CHARS]]
    return value


def _brief(output: Output) -> Output:
    output = output.lasting()
    if output.text is None or len(output.text) <= RECORD_TEXT_CHARS:
        return output
    return replace(output, text=output.text[:RECORD_TEXT_CHARS])


class JobBoard:
    """The jobs in hand and the records of finished ones, in memory."""

    def __init__(self, retention_s: float, most: int = 1000) -> None:
        self._retention_s = retention_s
        self._most = most
        self._jobs: dict[str, Job] = {}
        self._live: dict[str, Job] = {}  # and those that ended since somebody looked
        self._by_id: dict[str, list[Job]] = {}
        self._fresh: collections.deque[Job] = collections.deque()

    def add(self, job: Job) -> None:
        """Take a job in."""
        self._jobs[job.uid] = self._live[job.uid] = job
        self._by_id.setdefault(job.id, []).append(job)
        self._fresh.append(job)
        if len(self._fresh) > FRESH_JOBS:
            oldest = self._fresh.popleft()
            if oldest.phase.final:
                oldest.compact()
            else:
                self._fresh.append(oldest)
        self._expire()

    def find(self, job_id: str) -> Job | None:
        """Give the newest job of that id."""
        jobs = self._by_id.get(job_id)
        return jobs[-1] if jobs else None

    def by_uid(self, uid: str) -> Job | None:
        """Give a job by the name that is ours."""
        return self._jobs.get(uid)

    def newest(self) -> list[Job]:
        """List all that are remembered, the newest first."""
        return list(reversed(self._jobs.values()))

    def active(self, job_id: str | None = None) -> list[Job]:
        """List the jobs that have not ended, of one id or all."""
        if job_id is not None:
            return [job for job in self._by_id.get(job_id, []) if job.finished_at is None]
        for job in [job for job in self._live.values() if job.finished_at is not None]:
            del self._live[job.uid]
        return list(self._live.values())

    def _expire(self) -> None:
        horizon = time.time() - self._retention_s
        excess = len(self._jobs) - self._most
        if excess > 0:  # only records count: a full queue must not push them out
            excess -= len(self.active())
        for job in list(self._jobs.values()):
            if job.finished_at is None:
                continue
            if job.finished_at >= horizon and excess <= 0:
                break  # in order of arrival: what follows is mostly younger, and waits its turn
            self._remove(job)
            excess -= 1

    def _remove(self, job: Job) -> None:
        del self._jobs[job.uid]
        self._live.pop(job.uid, None)
        same = self._by_id[job.id]
        same.remove(job)
        if not same:
            del self._by_id[job.id]
