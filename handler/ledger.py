"""What is remembered of jobs beyond this process: records, outputs and events.

A job that another worker or a later process may be asked for is written before it begins. Any
other one is written behind its back, when it has lasted a while or is over: who waits two
milliseconds for an answer shall not wait for a disk.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, NotFound, StateUnavailable
from handler.state.cancels import Cancels
from handler.state.event_log import LoggedEvent
from handler.state.kept import output_name
from handler.state.records import JobRecord, OutputRecord
from handler.state.tending import tend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from handler.job import Job, JobEvent
    from handler.records import Output
    from handler.state.admission import Entered
    from handler.state.place import State
    from handler.state.store import Page

log = logging.getLogger("comfyfn.state")
RECORD_AFTER_S = 0.5
"""A job that is over sooner is written once, at its end."""
MOST_UNWRITTEN = 500
"""Under a flood of short jobs the oldest of them are remembered in memory only."""
PAUSE_S = 0.02
"""Between two of them: writing must not take the time of running."""
LOOK_FOR_CANCELS_S = 2.0
_HAPPENED = frozenset({"phase", "output", "succeeded", "failed", "cancelled"})


class Ledger:
    """Writes what becomes of our jobs, and finds what is known of any.

    Args:
        open_state: opens the place; None for a ledger that remembers nothing.
        shared: whether other workers have the same place, which then must be there.
        instance: our name where the place cannot be had.

    Attributes:
        cancel: cancels a job of ours that another worker was asked to cancel.
    """

    def __init__(
        self,
        open_state: Callable[[], Awaitable[State]] | None = None,
        *,
        shared: bool = False,
        instance: str = "",
    ) -> None:
        self._open_state = open_state
        self.shared = shared
        self._instance = instance
        self.cancel: Callable[[str], bool] = lambda _: False
        self._state: State | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, tuple[asyncio.TimerHandle, Job]] = {}
        self._begun: dict[str, Job] = {}
        self._over: collections.deque[JobRecord] = collections.deque(maxlen=MOST_UNWRITTEN)
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Ledger {self._state and self._state.store!r}>"

    # -- life -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to open the place; whoever needs it waits for it."""
        if self._open_state is not None and self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="open-state")

    async def opened(self) -> State | None:
        """Give the place, once it is open; None where there is none.

        Raises:
            StateUnavailable: STATE_URL is set, and it is not there.
        """
        self.begin()
        if self._opening is not None:
            await asyncio.shield(self._opening)
        return self._state

    async def _open(self) -> None:
        assert self._open_state is not None
        try:
            state = await self._open_state()
        except StateUnavailable as fault:
            if self.shared:
                raise
            log.error("%s; jobs are remembered in memory only", fault.message)
            return
        self._state = state
        for record in state.abandoned:
            log.warning("job %s was under way when the last process ended: it failed", record.id)
        self._spawn(tend(state, _lost), "tend-state")
        if self.shared:
            self._spawn(self._heed_cancels(state), "heed-cancels")

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Write what is not written yet, and let go of the place."""
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        for timer, _ in self._timers.values():
            timer.cancel()
        if self._state is not None:
            with contextlib.suppress(HandlerError, TimeoutError):
                async with asyncio.timeout(5):
                    await self.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        state, self._state, self._open_state = self._state, None, None
        if state is not None:
            try:
                await state.close()
            except HandlerError as fault:
                log.warning("the state was not closed well: %s", fault.message)

    @property
    def instance(self) -> str:
        """Our name among the workers."""
        return self._state.instance.name if self._state is not None else self._instance

    # -- writing ----------------------------------------------------------------------------------

    async def enter(self, job: Job, *, known_only: bool = False) -> Entered | None:
        """Write a job's record before it begins, or find the run that it is one with.

        Args:
            known_only: write nothing: no job is taken now, but one of the same key may be known.

        Returns:
            None where nothing can be written: it is run, and remembered in memory. With
            `known_only`, where nothing is known.

        Raises:
            Conflict: its id or key stands for another payload.
            StateUnavailable: nothing can be decided now.
        """
        state = await self.opened()
        if state is None:
            if job.key is not None:
                raise StateUnavailable(
                    "an idempotency key is of no use here: state cannot be kept",
                    hint="is STATE_DIR writable?",
                )
            return None
        if known_only:
            return await state.admission.known(self._record(job, state))
        entered = await state.admission.enter(self._record(job, state))
        if entered.record.uid == job.uid:
            self._begun[job.uid] = job
            job.listener = partial(self._told, job)
        return entered

    def follow(self, job: Job) -> None:
        """Have a job written that was not entered, once it has lasted a while."""
        if self._open_state is None or job.uid in self._begun:
            return
        timer = asyncio.get_running_loop().call_later(RECORD_AFTER_S, self._lasted, job)
        self._timers[job.uid] = (timer, job)

    def _lasted(self, job: Job) -> None:
        del self._timers[job.uid]
        self._spawn(self._begin_late(job), f"record-{job.id}")

    async def _begin_late(self, job: Job) -> None:
        try:
            state = await self.opened()
            if state is None:
                return
            if job.phase.final:  # meanwhile
                self._write_once(job, state)
                return
            record = replace(self._record(job, state), phase=job.phase.value)
            found = await state.store.read(job.id)
            if not await state.store.create(record, over=found):
                return  # another run of the same id was written meanwhile: it is the newer one
        except HandlerError as fault:
            log.warning("job %s is not recorded: %s", job.id, fault.message)
            return
        self._begun[job.uid] = job
        events = job.events
        job.listener = partial(self._told, job)
        for event in events:
            self._told(job, event)
        if job.finished_at is not None:  # it ended while it was being written
            self.end(job)

    def _record(self, job: Job, state: State) -> JobRecord:
        return JobRecord(
            id=job.id,
            uid=job.uid,
            instance=state.instance.id,
            created=job.created_at,
            adapter=job.adapter,
            digest=job.digest,
            key=job.key,
        )

    def _told(self, job: Job, event: JobEvent) -> None:
        """Write an event of a job whose record is there: all on disk, what happened in it."""
        state = self._state
        if state is None or event.type == "preview":
            return
        state.events.tell(
            job.uid, LoggedEvent(event.seq, event.type, event.data), final=event.final
        )
        if event.type in _HAPPENED and not event.final:
            told = {"seq": event.seq, "type": event.type, "data": event.data}
            phase, now = job.phase.value, time.time()
            state.recorder.note(
                job.id, job.uid, lambda record: _moved(record.told(told), phase, now)
            )

    def end(self, job: Job) -> None:
        """Write how a job ended; never waits."""
        timed = self._timers.pop(job.uid, None)
        state = self._state
        if self._begun.pop(job.uid, None) is not None and state is not None:
            job.listener = None
            state.recorder.note(job.id, job.uid, partial(_ended, job))
        elif timed is not None:
            timed[0].cancel()
            if state is not None:
                self._write_once(job, state)
            else:  # it is being opened
                self._spawn(self._begin_late(job), f"record-{job.id}")

    def _write_once(self, job: Job, state: State) -> None:
        self._over.append(_ended(job, self._record(job, state)))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_over(state), name="records")

    async def _write_over(self, state: State, pause_s: float = PAUSE_S) -> None:
        while self._over:
            record = self._over.popleft()
            try:
                found = await state.store.read(record.id)
                await state.store.create(record, over=found)
            except (HandlerError, TimeoutError) as fault:
                log.warning("job %s is not recorded: %s", record.id, fault)
            await asyncio.sleep(pause_s)

    async def flush(self) -> None:
        """Write now what waits to be written."""
        state = await self.opened()
        if state is None:
            return
        await self._write_over(state, 0.0)
        if self._writing is not None:
            await asyncio.shield(self._writing)
        await state.recorder.settle_all()

    async def keep(self, job: Job, outputs: Sequence[Output], folder: Path) -> None:
        """Keep the outputs that nobody can fetch elsewhere; the job's record names them.

        Args:
            folder: for the files of texts.
        """
        job.hold(outputs)
        try:
            state = await self.opened()
            if state is None:
                return
            names: list[str] = []
            for output in outputs:
                name = output_name(output.filename, names)
                path = output.path
                if path is None and output.url is None:
                    path = await asyncio.to_thread(_as_file, output, folder / name)
                kept = False
                if path is not None and output.url is None:
                    kept = await state.kept.put(job.uid, name, path, time.time())
                names.append(name if kept else "")
            job.hold(outputs, names)
        except (HandlerError, OSError) as fault:
            log.error("job %s: its outputs are not kept: %s", job.id, fault)

    # -- reading ----------------------------------------------------------------------------------

    async def find(self, job_id: str) -> JobRecord | None:
        """Give the record of an id, of whatever worker."""
        state = await self.opened()
        if state is None:
            return None
        found = await state.store.read(job_id)
        if found is None and self._over:
            await self.flush()
            found = await state.store.read(job_id)
        return found.record if found is not None else None

    async def record_of(self, job: Job) -> JobRecord | None:
        """Give the record of a job of this process, as it is now; None where none can be made."""
        state = await self.opened()
        if state is None:
            return None
        record = self._record(job, state)
        return _ended(job, record) if job.phase.final else replace(record, phase=job.phase.value)

    async def logged(self, uid: str, after: int) -> list[LoggedEvent]:
        """Give the events of a run that are on this machine's disk."""
        state = await self.opened()
        return [] if state is None else await state.events.read(uid, after)

    async def page(
        self, wanted: Callable[[JobRecord], bool], after: str | None, limit: int
    ) -> Page | None:
        """List records, the newest first; None where there are none but in memory.

        Raises:
            ValueError: `after` is no cursor.
        """
        state = await self.opened()
        if state is None:
            return None
        timed, self._timers = self._timers, {}
        for timer, job in timed.values():
            timer.cancel()
            await self._begin_late(job)
        await self.flush()
        return await state.store.page(wanted, after=after, limit=limit)

    async def wait(self, record: JobRecord) -> JobRecord:
        """Wait until a run is over, wherever it runs."""
        state = await self.opened()
        return record if state is None else await state.store.wait(record)

    async def events(self, record: JobRecord, after: int) -> AsyncIterator[LoggedEvent]:
        """Give a run's events from `after` on until it is over, also where another worker has it.

        Steps of its progress are there only where it ran with our STATE_DIR.
        """
        state = await self.opened()
        if state is None:
            return
        for event in await state.events.read(record.uid, after):
            after = event.seq
            yield event
        while True:
            for told in record.events:
                if told.get("seq", 0) > after:
                    after = told["seq"]
                    yield LoggedEvent(told["seq"], told["type"], told["data"])
            if record.final:
                return
            await asyncio.sleep(1.0)
            found = await state.store.read(record.id)
            if found is None or found.record.uid != record.uid:
                return
            record = found.record

    def unknown(self, job_id: str) -> NotFound:
        """Make the answer to who asks for a job that is not known here."""
        if self._state is not None:
            return self._state.unknown(job_id)
        return NotFound(
            f"no job {job_id[:200]!r} is known here",
            hint="finished jobs are kept for JOB_RETENTION_S, in this worker's memory only",
        )

    # -- cancelling -------------------------------------------------------------------------------

    async def ask_to_cancel(self, record: JobRecord) -> None:
        """Ask the worker that has a job to cancel it."""
        state = await self.opened()
        if state is not None:
            await Cancels(state.store).ask(record)

    async def _heed_cancels(self, state: State) -> None:
        """Cancel what other workers were asked to cancel here."""
        cancels = Cancels(state.store)
        while True:
            await asyncio.sleep(LOOK_FOR_CANCELS_S)
            if not self._begun:
                continue
            try:
                for uid in await cancels.asked(state.instance.id):
                    job = self._begun.get(uid)
                    if job is not None:
                        log.info("job %s: another worker was asked to cancel it", job.id)
                        self.cancel(job.id)
            except HandlerError as fault:
                log.warning("cancels of other workers cannot be seen: %s", fault.message)


async def _lost(record: JobRecord) -> None:
    log.warning("job %s was with a worker that is gone: it failed", record.id)


def _moved(record: JobRecord, phase: str, now: float) -> JobRecord:
    started = record.started or (now if phase == "running" else None)
    return replace(record, phase=phase, started=started)


def _ended(job: Job, record: JobRecord) -> JobRecord:
    """Give the record of a job that is over."""
    happened = [event for event in job.events if event.type in _HAPPENED]
    record = replace(record, events=())
    for event in happened:
        record = record.told({"seq": event.seq, "type": event.type, "data": event.data})
    names = job.kept or ("",) * len(job.outputs)
    return replace(
        record,
        phase=job.phase.value,
        finished=job.finished_at,
        error=job.error.envelope() if job.error else None,
        stats=job.stats,
        outputs=tuple(
            _output(output, name) for output, name in zip(job.outputs, names, strict=True)
        ),
    )


def _output(output: Output, name: str) -> OutputRecord:
    return OutputRecord(
        name=name,
        mime=output.mime,
        bytes=output.bytes,
        sha256=output.sha256,
        facts=output.public(),
        url=output.url,
        kept=bool(name),
    )


def _as_file(output: Output, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(output.text or "", encoding="utf-8", errors="replace")
    return path
