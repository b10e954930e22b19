"""Records of jobs, common to all workers that share the place.

Marks are written before the record and removed after it: what a crash leaves of them is found by
the expiry. A record is only ever written on the condition that it is as it was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from handler.errors import StateUnavailable
from handler.state.keys import Keys
from handler.state.layout import (
    active_key,
    cursor,
    job_key,
    job_of,
    recent_after,
    recent_key,
    stamp,
)
from handler.state.records import BrokenRecord, JobRecord, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handler.state.blobs import Blobs

log = logging.getLogger("comfyfn.state")
T = TypeVar("T")
_BATCH = 32
_SCANNED = 512
_TRIES = 16


@dataclass(frozen=True, slots=True)
class Versioned:
    """A record as it was read; `version` goes back with `replace`."""

    record: JobRecord
    version: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, the newest first.

    Attributes:
        cursor: goes back for the next page; None after the last one.
    """

    records: tuple[JobRecord, ...]
    cursor: str | None


class StateStore:
    """Records and claims. Every method may raise StateUnavailable.

    Args:
        blobs: where they are kept.
        threads: calls at once.

    Attributes:
        keys: the claims of idempotency keys.
    """

    def __init__(self, blobs: Blobs, threads: int = 8) -> None:
        self.blobs = blobs
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="state")
        self.keys = Keys(blobs, self.call)
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._calls: set[asyncio.Future[Any]] = set()

    def __repr__(self) -> str:
        return f"<StateStore {self.blobs!r}>"

    async def open(self) -> None:
        """Make sure that the place is there and keeps conditions.

        Raises:
            StateUnavailable: it is not, or does not.
        """
        await self.call(self.blobs.open)

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def call(self, work: Callable[[], T], *, dispose: Callable[[T], None] | None = None) -> T:
        """Do a blocking call in one of our threads. When cancelled, it is left to end by itself.

        Args:
            dispose: called with a result that came too late.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: _left(done, dispose))
            raise

    async def settled(self) -> None:
        """Wait until no thread is at work, also for those whose callers were cancelled."""
        while self._calls:
            await asyncio.wait(set(self._calls))

    # -- records ----------------------------------------------------------------------------------

    async def create(self, record: JobRecord, over: Versioned | None = None) -> bool:
        """Write the record of a new run.

        Args:
            over: the record of an earlier run with the same id, whose place it takes.

        Returns:
            Whether it is the one: of many at once, one is told True.
        """
        key, marks = job_key(record.id), [recent_key(record)]
        if not record.final:
            marks.append(active_key(record))
        await asyncio.gather(*(self.call(partial(self.blobs.mark, one)) for one in marks))
        body = encode(record)
        if over is None:
            won = await self.call(lambda: self.blobs.create(key, body))
        else:
            won = await self.call(lambda: self.blobs.replace(key, body, over.version))
        if won and over is not None:
            await self._unmark(over.record, record)
            former = over.record.key
            if former is not None and former != record.key:  # it leads nowhere any more
                await self.keys.drop(former, over.record.uid)
        elif not won:
            await self._unmark(record, await self._sitting(record.id))
        return won

    async def read(self, job_id: str) -> Versioned | None:
        """Read the record of an id."""
        found = await self.call(partial(self.blobs.read, job_key(job_id)))
        if found is None:
            return None
        try:
            return Versioned(decode(found.body), found.version)
        except BrokenRecord as fault:
            log.error("the record of job %s cannot be read: %s", job_id, fault)
            return None

    async def replace(self, record: JobRecord, version: str) -> bool:
        """Write a record anew if it is still of this version."""
        body, key = encode(record), job_key(record.id)
        if not await self.call(lambda: self.blobs.replace(key, body, version)):
            return False
        if record.final:
            await self.call(partial(self.blobs.remove, active_key(record)))
        self._tell(record.id)
        return True

    async def update(
        self,
        job_id: str,
        uid: str,
        change: Callable[[JobRecord], JobRecord],
        *,
        over_too: bool = False,
    ) -> JobRecord | None:
        """Change a run's record, whoever else does so meanwhile. One that is over stays as it is.

        Args:
            change: may be called more than once.
            over_too: also one that is over.

        Returns:
            The record as it is now; None where the run has none any more.
        """
        for attempt in range(_TRIES):
            found = await self.read(job_id)
            if found is None or found.record.uid != uid:
                return None
            if found.record.final and not over_too:
                return found.record
            changed = change(found.record)
            if changed == found.record:
                return changed
            if await self.replace(changed, found.version):
                return changed
            await asyncio.sleep(0.01 * attempt)
        raise StateUnavailable(f"the record of job {job_id!r} changes all the time")

    async def delete(self, record: JobRecord) -> None:
        """Forget a run that is over, and its claim."""
        found = await self.read(record.id)
        if found is not None and found.record.uid == record.uid:
            await self.call(partial(self.blobs.remove, job_key(record.id)))
            await self._unmark(record, None)
        if record.key is not None:
            await self.keys.drop(record.key, record.uid)

    async def page(
        self,
        wanted: Callable[[JobRecord], bool] = lambda _: True,
        *,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """List records, the newest first.

        Args:
            after: the cursor of the page before.

        Returns:
            At most `limit` records; fewer and a cursor, where many were looked at in vain.

        Raises:
            ValueError: the cursor is none of ours.
        """
        place = recent_after(after) if after is not None else ""
        found: list[JobRecord] = []
        scanned = 0
        while scanned < _SCANNED:
            keys = await self.call(partial(self.blobs.names, "recent/", place, _BATCH))
            for key, record in zip(keys, await self._recorded(keys), strict=True):
                place = key
                if record is not None and wanted(record):
                    found.append(record)
                if len(found) == limit:
                    return Page(tuple(found), cursor(place))
            if len(keys) < _BATCH:
                return Page(tuple(found), None)
            scanned += len(keys)
        return Page(tuple(found), cursor(place))

    async def abandoned(self, instance: str) -> list[JobRecord]:
        """List the jobs that an instance which is gone has left unfinished."""
        records: list[JobRecord] = []
        after = prefix = f"active/{instance}/"
        while keys := await self.call(partial(self.blobs.names, prefix, after, 1000)):
            after = keys[-1]
            for key, record in zip(keys, await self._recorded(keys), strict=True):
                if record is not None and record.instance == instance and not record.final:
                    records.append(record)
                else:  # it died between the mark and the record
                    await self.call(partial(self.blobs.remove, key))
        return records

    async def wait(self, record: JobRecord, poll_s: tuple[float, float] = (0.2, 2.0)) -> JobRecord:
        """Wait until a run is over, wherever it runs; at once where it ends here.

        Args:
            poll_s: first and longest wait between two looks.

        Returns:
            The final record; the last one seen, where it is gone or another run took its place.
        """
        woken = asyncio.Event()
        self._waiting.setdefault(record.id, set()).add(woken)
        pause, longest = poll_s
        try:
            while not record.final:
                woken.clear()
                found = await self.read(record.id)
                if found is None or found.record.uid != record.uid:
                    return record
                record = found.record
                if record.final:
                    return record
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), pause)
                pause = min(longest, pause * 1.5)
            return record
        finally:
            self._waiting[record.id].discard(woken)
            if not self._waiting[record.id]:
                del self._waiting[record.id]

    def _tell(self, job_id: str) -> None:
        for woken in self._waiting.get(job_id, ()):
            woken.set()

    # -- expiry -----------------------------------------------------------------------------------

    async def expire(self, now: float, retention_s: float, outputs_s: float = 0.0) -> int:
        """Remove records that have been over for long enough, and what crashes have left.

        Args:
            retention_s: of every record.
            outputs_s: of those with kept outputs, where it is more.

        Returns:
            How many were removed.
        """
        removed, horizon = 0, now - retention_s
        after = f"recent/{stamp(horizon)[:6]}/{stamp(horizon)}"
        while keys := await self.call(partial(self.blobs.names, "recent/", after, 500)):
            after = keys[-1]
            for start in range(0, len(keys), _BATCH):  # many records at once are much memory
                batch = keys[start : start + _BATCH]
                for key, record in zip(batch, await self._recorded(batch), strict=True):
                    if record is None:
                        await self.call(partial(self.blobs.remove, key))
                    elif record.final and _expires(record, retention_s, outputs_s) <= now:
                        await self.delete(record)
                        removed += 1
        await self.call(partial(self.blobs.sweep, now))
        return removed

    async def _recorded(self, keys: Sequence[str]) -> list[JobRecord | None]:
        """Read the records that marks stand for; None where the run's place was taken."""
        found = await asyncio.gather(
            *(self.call(partial(self.blobs.read, job_of(key))) for key in keys)
        )
        records: list[JobRecord | None] = []
        for key, one in zip(keys, found, strict=True):
            record = None
            if one is not None:
                with contextlib.suppress(BrokenRecord):
                    record = decode(one.body)
            if record is not None and key.startswith("recent/") and recent_key(record) != key:
                record = None
            records.append(record)
        return records

    async def _sitting(self, job_id: str) -> JobRecord | None:
        found = await self.read(job_id)
        return found.record if found is not None else None

    async def _unmark(self, gone: JobRecord, stays: JobRecord | None) -> None:
        """Remove the marks of a run, those left out that another one has, too."""
        kept = {recent_key(stays), active_key(stays)} if stays is not None else set()
        for mark in {recent_key(gone), active_key(gone)} - kept:
            await self.call(partial(self.blobs.remove, mark))


def _expires(record: JobRecord, retention_s: float, outputs_s: float) -> float:
    kept = any(output.kept for output in record.outputs)
    return (record.finished or record.created) + max(retention_s, outputs_s if kept else 0.0)


def _left(done: asyncio.Future[T], dispose: Callable[[T], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and dispose is not None:
        dispose(done.result())
