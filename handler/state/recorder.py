"""Writes what becomes of our own jobs, behind their backs: no job waits for it, or fails by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from handler.errors import StateUnavailable
from handler.state.records import JobRecord

if TYPE_CHECKING:
    from handler.state.store import StateStore

log = logging.getLogger("comfyfn.state")
Change = Callable[[JobRecord], JobRecord]
_LATE_AT_ONCE = 2


@dataclass(slots=True)
class _Writing:
    """What of one job is not written yet."""

    job_id: str
    changes: list[tuple[Change, bool]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def late(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(late for _, late in self.changes)


class Recorder:
    """Applies changes to records in order; those that come faster than they are written, at once.

    Args:
        first_wait_s, longest_wait_s: between tries while the place does not answer.
    """

    def __init__(
        self, store: StateStore, first_wait_s: float = 0.5, longest_wait_s: float = 30.0
    ) -> None:
        self._store = store
        self._first_s, self._longest_s = first_wait_s, longest_wait_s
        self._writings: dict[str, _Writing] = {}
        self._late_pen = asyncio.Semaphore(_LATE_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Recorder {len(self._writings)} jobs to write>"

    def note(self, job_id: str, uid: str, change: Change, *, late: bool = False) -> None:
        """Have a run's record changed; never waits.

        Args:
            change: may be called more than once, also where it was written and nobody said so.
            late: also where the run is over; nobody waits for it, and few are written at once.
        """
        writing = self._writings.get(uid)
        if writing is None:
            writing = self._writings[uid] = _Writing(job_id)
        writing.changes.append((change, late))
        if writing.task is None:
            writing.task = asyncio.create_task(self._write(uid, writing), name=f"record-{job_id}")

    async def settle(self, uid: str) -> None:
        """Wait until everything that was noted of a run is written, or has no place any more.

        What is late is not waited for.
        """
        writing = self._writings.get(uid)
        if writing is not None and writing.task is not None and not writing.late:
            await asyncio.shield(writing.task)

    async def settle_all(self) -> None:
        """Wait until everything that was noted so far is written."""
        await asyncio.gather(*(self.settle(uid) for uid in list(self._writings)))

    async def drain(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything is written, and give up on what is not in time.

        Returns:
            Whether all of it is.
        """
        tasks = {one.task for one in self._writings.values() if one.task is not None}
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            log.error("%d records could not be written to the end", len(late))
            await asyncio.wait(late)
        return not late

    async def _write(self, uid: str, writing: _Writing) -> None:
        pause = self._first_s
        try:
            while writing.changes:
                changes = list(writing.changes)
                try:
                    await self._update(uid, writing, changes)
                except StateUnavailable as fault:
                    log.warning("the record of job %s waits: %s", writing.job_id, fault.message)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                    pause = min(self._longest_s, pause * 2)
                    continue
                except Exception:
                    log.exception("the record of job %s cannot be written", writing.job_id)
                pause = self._first_s
                del writing.changes[: len(changes)]
        finally:
            with contextlib.suppress(KeyError):
                del self._writings[uid]

    async def _update(
        self, uid: str, writing: _Writing, changes: list[tuple[Change, bool]]
    ) -> None:
        change, some_late = partial(_all, changes), any(late for _, late in changes)
        async with self._late_pen if writing.late else contextlib.nullcontext():
            await self._store.update(writing.job_id, uid, change, over_too=some_late)


def _all(changes: list[tuple[Change, bool]], record: JobRecord) -> JobRecord:
    over = record.final
    for change, late in changes:
        if late or not over:
            record = change(record)
    return record
