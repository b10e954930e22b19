"""Writes the records of short jobs once they are over: who waits for a job waits for no disk."""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING

from handler.errors import HandlerError

if TYPE_CHECKING:
    from handler.state.records import JobRecord
    from handler.state.store import StateStore

log = logging.getLogger("comfyfn.state")
MOST_UNWRITTEN = 500
PAUSE_S = 0.2
"""Between two of them: at 50 a second they cost a seventh of what a short job costs."""


class Behind:
    """The records that wait to be written, the first that came first.

    Args:
        most: that wait; under a flood the oldest of them are never written.
        pause_s: between two of them: writing must not take the time of running.
    """

    def __init__(
        self, store: StateStore, most: int = MOST_UNWRITTEN, pause_s: float = PAUSE_S
    ) -> None:
        self._store = store
        self._pause_s = pause_s
        self._waiting: collections.deque[JobRecord] = collections.deque(maxlen=most)
        self._pen = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Behind {len(self._waiting)} to write>"

    def __len__(self) -> int:
        """How many wait, the one that is being written included."""
        return len(self._waiting)

    def add(self, record: JobRecord) -> None:
        """Have the record of a job that is over written; never waits."""
        self._waiting.append(record)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="records")

    async def flush(self) -> None:
        """Write now what waits by now."""
        for _ in range(len(self._waiting)):
            await self._write_next()

    async def close(self) -> None:
        """Write no more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        while self._waiting:
            await self._write_next()
            await asyncio.sleep(self._pause_s)

    async def _write_next(self) -> None:
        async with self._pen:
            if not self._waiting:
                return
            record = self._waiting[0]
            try:
                await create_newest(self._store, record)
            except HandlerError as fault:
                log.warning("job %s is not recorded: %s", record.id, fault.message)
            # Not before: who is cancelled in between leaves it to the next.
            if self._waiting and self._waiting[0] is record:
                self._waiting.popleft()


async def create_newest(store: StateStore, record: JobRecord) -> bool:
    """Write the record of a run unless its id stands for a newer one, or one that goes on.

    Returns:
        Whether it is written.

    Raises:
        StateUnavailable: the place does not answer.
    """
    found = await store.read(record.id)
    if found is not None:
        other = found.record
        if not other.final or (other.uid != record.uid and other.created > record.created):
            return False
    return await store.create(record, over=found)
