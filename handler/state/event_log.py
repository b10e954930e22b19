"""The events of every job on disk, so that a reconnect after a restart finds what it missed.

One file a job, a line of JSON an event. Steps of progress that come faster than they are written
are not all written, and go first when a file is full. What a crash leaves of a line is no JSON,
and is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger("comfyfn.state")
T = TypeVar("T")
_UID = re.compile(r"[\da-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as it was told; `seq` counts from 1 within the job, and may leave some out."""

    seq: int
    type: str
    data: dict[str, Any]


class EventLog:
    """The files. Everything blocks; of one job, one thread at a time.

    Args:
        folder: made where it is missing.
        most: events of one job.
        most_bytes: of one job's file, about.
    """

    def __init__(self, folder: Path, most: int = 512, most_bytes: int = 1 << 20) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_bytes
        self._lines: dict[str, int] = {}

    def append(self, uid: str, events: Iterable[LoggedEvent]) -> None:
        """Write events at the end of a job's file.

        Raises:
            OSError: it cannot be written.
        """
        path, lines = self._path(uid), [_line(event) for event in events]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")  # the last writer died in the middle of a line
            file.write(b"".join(lines))
            size = file.tell()
        if uid not in self._lines:
            self._lines[uid] = path.read_bytes().count(b"\n")
        else:
            self._lines[uid] += len(lines)
        # Twice as many before it is made shorter: that is done once in many times.
        if self._lines[uid] > 2 * self._most or size > 2 * self._most_bytes:
            self._shorten(uid, path)

    def read(self, uid: str, after: int = 0) -> list[LoggedEvent]:
        """Give the events after one, in order; none where nothing is known of the job."""
        try:
            body = self._path(uid).read_bytes()
        except FileNotFoundError:
            return []
        events: dict[int, LoggedEvent] = {}
        for line in body.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = orjson.loads(line)
                events[told["seq"]] = LoggedEvent(told["seq"], told["type"], told["data"])
        return [events[seq] for seq in sorted(events) if seq > after]

    def close(self, uid: str) -> None:
        """Make a job's file as short as it may be: no event comes any more."""
        self._lines.pop(uid, None)
        path = self._path(uid)
        if path.exists():
            self._shorten(uid, path)
            self._lines.pop(uid, None)

    def expire(self, before: float) -> int:
        """Remove the files that nothing was written to since then.

        Args:
            before: Unix seconds.

        Returns:
            How many were removed.
        """
        removed = 0
        if not self._folder.is_dir():
            return 0
        for shard in list(self._folder.iterdir()):
            with contextlib.suppress(OSError):
                for path in list(shard.iterdir()):
                    if path.stat().st_mtime < before:
                        path.unlink(missing_ok=True)
                        self._lines.pop(path.stem, None)
                        removed += 1
                shard.rmdir()
        return removed

    def _shorten(self, uid: str, path: Path) -> None:
        events = self.read(uid)
        steps = [event for event in events if event.type == "progress"]
        excess = len(events) - self._most
        dropped = {event.seq for event in steps[: max(0, excess)]}
        kept = [event for event in events if event.seq not in dropped][-self._most :]
        lines = [_line(event) for event in kept]
        while len(lines) > 1 and sum(map(len, lines)) > self._most_bytes:
            del lines[0]
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(b"".join(lines))
        part.replace(path)
        self._lines[uid] = len(lines)

    def _path(self, uid: str) -> Path:
        if not _UID.fullmatch(uid):
            raise ValueError("no uid of a job")
        return self._folder / uid[:2] / f"{uid}.jsonl"


class EventLogs:
    """The files from the event loop: `tell` never waits, and a full disk harms no job."""

    def __init__(self, log_files: EventLog) -> None:
        self._files = log_files
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._waiting: dict[str, list[LoggedEvent]] = {}
        self._over: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    def tell(self, uid: str, event: LoggedEvent, *, final: bool = False) -> None:
        """Have an event written; a step of progress takes the place of one that still waits."""
        waiting = self._waiting.setdefault(uid, [])
        if event.type == "progress" and waiting and waiting[-1].type == "progress":
            waiting.pop()
        waiting.append(event)
        if final:
            self._over.add(uid)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="event-log")

    async def read(self, uid: str, after: int = 0) -> list[LoggedEvent]:
        """Give a job's events after one, those that were just told included."""
        await self.settle()
        return await self._call(lambda: self._files.read(uid, after))

    async def settle(self) -> None:
        """Wait until everything that was told is written."""
        while self._writing is not None and not self._writing.done():
            await asyncio.shield(self._writing)

    async def expire(self, before: float) -> int:
        """Remove the files that nothing was written to since then, in Unix seconds."""
        return await self._call(lambda: self._files.expire(before))

    async def close(self) -> None:
        """Write what waits, and take no more."""
        await self.settle()
        self._pool.shutdown(wait=False)

    async def _write(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            over, self._over = self._over, set()
            await self._call(partial(self._write_now, waiting, over))

    def _write_now(self, waiting: dict[str, list[LoggedEvent]], over: set[str]) -> None:
        for uid, events in waiting.items():
            try:
                self._files.append(uid, events)
                if uid in over:
                    self._files.close(uid)
            except OSError as error:
                log.warning("events of a job cannot be written: %s", error.strerror)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _line(event: LoggedEvent) -> bytes:
    told = {"seq": event.seq, "type": event.type, "data": event.data}
    try:
        return orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # ComfyUI's JSON may hold what ours cannot
        cut = {"seq": event.seq, "type": event.type, "data": {}}
        return orjson.dumps(cut, option=orjson.OPT_APPEND_NEWLINE)
