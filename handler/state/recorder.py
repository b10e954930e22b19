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


@dataclass(slots=True)
class _Writing:
    """What of one job is not written yet."""

    job_id: str
    changes: list[Change] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


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

    def __repr__(self) -> str:
        return f"<Recorder {len(self._writings)} jobs to write>"

    def note(self, job_id: str, uid: str, change: Change) -> None:
        """Have a run's record changed; never waits.

        Args:
            change: may be called more than once, also where it was written and nobody said so.
        """
        writing = self._writings.get(uid)
        if writing is None:
            writing = self._writings[uid] = _Writing(job_id)
        writing.changes.append(change)
        if writing.task is None:
            writing.task = asyncio.create_task(self._write(uid, writing), name=f"record-{job_id}")

    async def settle(self, uid: str) -> None:
        """Wait until everything that was noted of a run is written, or has no place any more."""
        writing = self._writings.get(uid)
        if writing is not None and writing.task is not None:
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
                    await self._store.update(writing.job_id, uid, partial(_all, changes))
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


def _all(changes: list[Change], record: JobRecord) -> JobRecord:
    for change in changes:
        record = change(record)
    return record
