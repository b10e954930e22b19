"""What is remembered of jobs beyond this process: records, outputs and events.

A job that another worker or a later process may be asked for is written before it begins. Any
other one is written behind its back, when it has lasted a while or is over: who waits two
milliseconds for an answer shall not wait for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, NotFound, StateUnavailable
from handler.job_records import HAPPENED, ended, moved, record_of
from handler.state.behind import Behind, create_newest
from handler.state.cancels import Cancels, Waits
from handler.state.event_log import LoggedEvent
from handler.state.kept import output_name
from handler.state.tending import tend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from handler.job import Job, JobEvent
    from handler.records import Output
    from handler.state.admission import Entered
    from handler.state.place import State
    from handler.state.records import JobRecord
    from handler.state.store import Page

log = logging.getLogger("comfyfn.state")
RECORD_AFTER_S = 0.5
"""A job that is over sooner is written once, at its end."""
LOOK_FOR_CANCELS_S = 2.0
FLUSH_S = 5.0
PLAIN_S = 5.0
"""A job that nobody will ask for elsewhere waits so long for the place that all share."""
KEEP_PLAIN_S = 30.0
AWAY_S = 10.0
"""So long it does not wait at all, after the place did not answer."""
CLOSE_S = 2.5
"""For each of its three steps: a place that is gone must not hold up the end."""


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
        self._late: set[asyncio.Task[None]] = set()
        self._timers: dict[str, tuple[asyncio.TimerHandle, Job]] = {}
        self._begun: dict[str, Job] = {}
        self._entering = 0
        self._behind: Behind | None = None
        self._away_until = 0.0
        self._tending: list[asyncio.Task[None]] = []

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
            if not self._opening.done():
                await asyncio.wait({self._opening})
            if self._opening.cancelled():
                raise StateUnavailable("the state is closed")
            self._opening.result()
        return self._state

    @property
    def remembers(self) -> bool:
        """Whether there is a place, as far as is known by now."""
        opening = self._opening
        return self._open_state is not None and (
            opening is None or not opening.done() or self._state is not None
        )

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
        self._behind = Behind(state.store)
        for record in state.abandoned:
            log.warning("job %s was under way when the last process ended: it failed", record.id)
        self._tend(state)

    def _tend(self, state: State) -> None:
        self._tending = [self._spawn(tend(state, _lost), "tend-state")]
        if self.shared:
            self._tending.append(self._spawn(self._heed_cancels(state), "heed-cancels"))

    async def pause(self) -> None:
        """Hold no file open, where STATE_DIR is on a volume, and be still: `renew` must follow.

        What went on by itself after a thaw would give signs of life under a name that copies have.
        """
        state = self._state
        if state is None:
            return
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        self._tending = []
        with contextlib.suppress(HandlerError, TimeoutError):
            await self.flush()
            async with asyncio.timeout(FLUSH_S):
                await state.store.settled()
        state.instance.close()

    def renew(self, name: str) -> None:
        """Go on after a freeze: by new connections and, between two jobs, as another worker.

        The records of the copies of a snapshot must not be taken for one worker's. Never waits.

        Args:
            name: INSTANCE_ID, or the host's name.
        """
        self._instance, self._away_until = name, 0.0
        state = self._state
        if state is None:
            return
        state.store.blobs.renew()
        if self._entering or self._begun or self._late or self._timers:
            if not self._tending:
                self._tend(state)
            return  # their records have the old name
        state.instance.renew(name)
        state.instances.renew(state.instance.id)
        for task in self._tending:  # its pauses are measured by a clock that may have jumped
            task.cancel()
        self._tend(state)

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _record_late(self, job: Job) -> None:
        task = self._spawn(self._begin_late(job), f"record-{job.id}")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def close(self) -> None:
        """Write what is not written yet, and let go of the place; within some seconds."""
        if self._opening is not None:
            await asyncio.wait({self._opening}, timeout=CLOSE_S)
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for timer, _ in self._timers.values():
            timer.cancel()
        if self._state is not None:
            with contextlib.suppress(HandlerError, TimeoutError):
                await self.flush(CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._behind is not None:
            await self._behind.close()
        state, self._state, self._open_state = self._state, None, None
        if state is not None:
            await state.recorder.drain(CLOSE_S)
            try:
                async with asyncio.timeout(CLOSE_S):
                    await state.close()
            except (HandlerError, TimeoutError) as fault:
                log.warning("the state was not closed well: %s", _why(fault))

    @property
    def instance(self) -> str:
        """Our id among the workers; it begins with our name."""
        return self._state.instance.id if self._state is not None else self._instance

    @property
    def worker(self) -> str:
        """Our name, for people."""
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
        record = record_of(job, self.instance, self.worker)
        if known_only:
            return await state.admission.known(record, again=job.retries)
        self._entering += 1
        try:
            if job.key is not None or job.asynchronous:
                entered = await state.admission.enter(record, again=job.retries)
            else:
                plain = await self._enter_plain(record, state)
                if plain is None:
                    return None
                entered = plain
            if entered.record.uid == job.uid:
                self._begun[job.uid] = job
                job.listener = partial(self._told, job)
            return entered
        finally:
            self._entering -= 1

    async def _enter_plain(self, record: JobRecord, state: State) -> Entered | None:
        """Enter a job that is run all the same where the place does not answer."""
        if self.away:
            return None
        try:
            async with asyncio.timeout(PLAIN_S):
                return await state.admission.enter(record)
        except (StateUnavailable, TimeoutError) as fault:
            self._went_away()
            log.warning("job %s is run, and not recorded: %s", record.id, _why(fault))
            return None

    @property
    def away(self) -> bool:
        """Whether the place has not answered lately."""
        return time.monotonic() < self._away_until

    def _went_away(self) -> None:
        self._away_until = time.monotonic() + AWAY_S

    def follow(self, job: Job) -> None:
        """Have a job written that was not entered, once it has lasted a while."""
        if self._open_state is None or job.uid in self._begun:
            return
        timer = asyncio.get_running_loop().call_later(RECORD_AFTER_S, self._lasted, job)
        self._timers[job.uid] = (timer, job)

    def _lasted(self, job: Job) -> None:
        del self._timers[job.uid]
        self._record_late(job)

    async def begun(self, job: Job) -> None:
        """Write the record of a job under way now, where it has none yet."""
        timed = self._timers.pop(job.uid, None)
        if timed is not None:
            timed[0].cancel()
            self._record_late(job)
        if self._late:
            await asyncio.wait(set(self._late), timeout=FLUSH_S)

    async def _begin_late(self, job: Job) -> None:
        try:
            state = await self.opened()
            if state is None:
                return
            if job.phase.final:  # meanwhile
                self._write_once(job)
                return
            record = replace(record_of(job, self.instance, self.worker), phase=job.phase.value)
            if not await create_newest(state.store, record):
                return
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

    def _told(self, job: Job, event: JobEvent) -> None:
        """Write an event of a job whose record is there: all on disk, what happened in it."""
        state = self._state
        if state is None or event.type == "preview":
            return
        state.events.tell(
            job.uid, LoggedEvent(event.seq, event.type, event.data), final=event.final
        )
        if event.type in HAPPENED and not event.final:
            told = {"seq": event.seq, "type": event.type, "data": event.data}
            phase, now = job.phase.value, time.time()
            state.recorder.note(
                job.id, job.uid, lambda record: moved(record.told(told), phase, now)
            )

    def end(self, job: Job) -> None:
        """Write how a job ended; never waits."""
        timed = self._timers.pop(job.uid, None)
        state = self._state
        if self._begun.pop(job.uid, None) is not None and state is not None:
            job.listener = None
            state.recorder.note(job.id, job.uid, partial(ended, job))
        elif timed is not None:
            timed[0].cancel()
            if state is not None:
                self._write_once(job)
            elif self.remembers:  # it is being opened
                self._record_late(job)

    def note(self, job_id: str, uid: str, change: Callable[[JobRecord], JobRecord]) -> None:
        """Have the record of a run changed, also of one that is over; never waits.

        Args:
            change: may be called more than once.
        """
        if self._state is not None:
            self._state.recorder.note(job_id, uid, change, late=True)
        elif self.remembers:  # an earlier life's are told of before the place is open
            self._spawn(self._note_late(job_id, uid, change), f"note-{job_id}")

    async def _note_late(
        self, job_id: str, uid: str, change: Callable[[JobRecord], JobRecord]
    ) -> None:
        with contextlib.suppress(HandlerError):  # the boot tells it
            state = await self.opened()
            if state is not None:
                state.recorder.note(job_id, uid, change, late=True)

    def _write_once(self, job: Job) -> None:
        assert self._behind is not None
        self._behind.add(ended(job, record_of(job, self.instance, self.worker)))

    async def written(self, uid: str) -> None:
        """Wait until the end of a run is written, for some seconds at most."""
        if self._state is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._state.recorder.settle(uid)

    async def flush(self, limit_s: float = FLUSH_S) -> None:
        """Write now what waits to be written by now.

        Raises:
            TimeoutError: not all of it is in this time.
            StateUnavailable: STATE_URL is not there.
        """
        state = await self.opened()
        if state is None or self._behind is None:
            return
        async with asyncio.timeout(limit_s):
            if self._late:
                await asyncio.wait(set(self._late))
            await self._behind.flush()
            await state.recorder.settle_all()

    async def keep(
        self, job: Job, outputs: Sequence[Output], folder: Path, limit_s: float | None = None
    ) -> None:
        """Keep the outputs that nobody can fetch elsewhere; the job's record names them.

        Args:
            folder: for the files of texts.
            limit_s: the longest that this may take; None for whatever it takes.
        """
        job.hold(outputs)
        try:
            state = await self.opened()
            if state is not None:
                async with asyncio.timeout(limit_s):
                    job.hold(outputs, await _kept(state, job.uid, outputs, folder))
        except (HandlerError, OSError) as fault:
            if isinstance(fault, StateUnavailable | TimeoutError):
                self._went_away()
            log.error("job %s: its outputs are not kept: %s", job.id, _why(fault))

    # -- reading ----------------------------------------------------------------------------------

    async def find(self, job_id: str) -> JobRecord | None:
        """Give the record of an id, of whatever worker."""
        state = await self.opened()
        if state is None:
            return None
        found = await state.store.read(job_id)
        if found is None and (self._behind or self._late):
            with contextlib.suppress(TimeoutError):
                await self.flush()
            found = await state.store.read(job_id)
        return found.record if found is not None else None

    async def record_of(self, job: Job) -> JobRecord:
        """Give the record of a job of this process, as it is now."""
        record = record_of(job, self.instance, self.worker)
        return ended(job, record) if job.phase.final else replace(record, phase=job.phase.value)

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
            self._record_late(job)
        with contextlib.suppress(TimeoutError):
            await self.flush()
        return await state.store.page(wanted, after=after, limit=limit)

    async def wait(self, record: JobRecord) -> JobRecord:
        """Wait until a run is over, wherever it runs."""
        state = await self.opened()
        if state is None or record.final:
            return record
        if record.key is not None or not self.shared:  # it goes on, whoever waits
            return await state.store.wait(record)
        waits = Waits(state.store, state.instance.id)
        try:
            await waits.begin(record)
            return await state.store.wait(record)
        finally:
            self._spawn(_left(waits, record), f"left-{record.id}")

    async def wanted(self, job: Job) -> bool:
        """Tell whether a caller waits for a job of ours at another worker."""
        state = self._state
        if state is None or not self.shared or job.uid not in self._begun:
            return False
        try:
            return await Waits(state.store, state.instance.id).any(job.uid)
        except HandlerError as fault:
            log.warning("callers of other workers cannot be seen: %s", fault.message)
            return False

    async def events(self, record: JobRecord, after: int) -> AsyncIterator[LoggedEvent]:
        """Give a run's events from `after` on until it is over, also where another worker has it.

        Steps of its progress are there only where it ran with our STATE_DIR.
        """
        state = await self.opened()
        if state is None:
            return
        newest = 0
        for event in await state.events.read(record.uid):
            newest = event.seq
            if event.seq > after:
                after = event.seq
                yield event
        while True:
            for told in record.events:
                # The end of who is gone is told by another, who does not know its numbers.
                newest = max(newest, told["seq"]) if "seq" in told else newest + 1
                seq = told.get("seq", newest)
                if seq > after:
                    after = seq
                    yield LoggedEvent(seq, told["type"], told["data"])
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
        cancels, us = Cancels(state.store), state.instance.id
        strange: set[str] = set()
        while True:
            await asyncio.sleep(LOOK_FOR_CANCELS_S)
            if not self._begun:
                continue
            try:
                asked = await cancels.asked(us)
                for uid in asked:
                    job = self._begun.get(uid)
                    if job is not None and self.cancel(job.id):
                        log.info("job %s: another worker was asked to cancel it", job.id)
                    elif job is not None or uid not in strange:
                        continue  # it is being entered, or over: the next look will tell
                    await cancels.heeded(us, uid)
                strange = set(asked)
            except HandlerError as fault:
                log.warning("cancels of other workers cannot be seen: %s", fault.message)


async def _left(waits: Waits, record: JobRecord) -> None:
    with contextlib.suppress(HandlerError):  # at worst a job goes on that nobody waits for
        await waits.end(record)


async def _lost(record: JobRecord) -> None:
    log.warning("job %s was with a worker that is gone: it failed", record.id)


async def _kept(state: State, uid: str, outputs: Sequence[Output], folder: Path) -> list[str]:
    """Keep outputs; give the name of each, "" where it is not kept."""
    names: list[str] = []
    for output in outputs:
        name = output_name(output.filename, names)
        path = output.path
        if path is None and output.url is None:
            path = await asyncio.to_thread(_as_file, output, folder / name)
        kept = False
        if path is not None and output.url is None:
            kept = await state.kept.put(uid, name, path, time.time())
        names.append(name if kept else "")
    return names


def _why(fault: Exception) -> str:
    return "it takes too long" if isinstance(fault, TimeoutError) else str(fault)


def _as_file(output: Output, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(output.text or "", encoding="utf-8", errors="replace")
    return path
