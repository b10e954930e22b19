"""Bring the missing bytes of one file, several parts at once, each tried again where it breaks."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.errors import InputFailed
from handler.transfer.base import SourceChanged
from handler.transfer.http_line import passing
from handler.transfer.room import storing_fault
from handler.transfer.spans import Span, pieces
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.transfer.base import Body, RangeSource, Remote
    from handler.transfer.part import Part
    from handler.transfer.records import Limits
    from handler.transfer.slots import Slots
    from handler.transfer.threads import Threads

log = logging.getLogger("comfyfn.transfer")

_BUFFER = 1 << 20
_CHECKED_EVERY = 16 << 20
# Less than this is no progress: a source that drops after every byte must not be asked for ever.
_WORTH = 64 << 10


class Dropped(InputFailed):
    """The connection broke, and the source cannot go on in the middle of the file."""


@dataclass(slots=True, eq=False)
class _Pour:
    """Bytes on their way into their place.

    Attributes:
        at: where the next one goes.
        end: where the last one went before; None: until the source ends.
        seen_at, seen: what the watch saw when it last was content, and when.
        silent: the watch ended it.
    """

    at: int
    end: int | None
    body: Body | None = None
    seen_at: int = 0
    seen: float = 0.0
    silent: bool = False


class Ranges:
    """The transfer of one file's missing bytes.

    Args:
        slots: connections that all downloads share; one of them is held by the caller already.
        max_bytes: the most the file may have, for sources that do not tell beforehand.
        check_room: for them, too: called every now and then, raises DiskFull. Blocking.
    """

    def __init__(
        self,
        source: RangeSource,
        remote: Remote,
        part: Part,
        *,
        limits: Limits,
        slots: Slots,
        threads: Threads,
        max_bytes: int | None,
        shown: str,
        check_room: Callable[[], None],
    ) -> None:
        self._source = source
        self._check_room = check_room
        self._remote = remote
        self._part = part
        self._limits = limits
        self._slots = slots
        self._threads = threads
        self._max_bytes = max_bytes
        self._shown = shown
        self._todo: deque[Span] = deque()
        self._active: set[_Pour] = set()

    async def run(self) -> None:
        """Bring all that is missing.

        Raises:
            SourceChanged: the file is another by now.
            Dropped: it broke off, and has to be begun anew.
            DiskFull, InputFailed, AccessDenied, UrlNotAllowed: as told by disk and source.
        """
        first = self._plan()
        watch = asyncio.create_task(self._watch())
        helpers: set[asyncio.Task[None]] = set()
        try:
            extra = min(self._limits.per_file - 1, len(self._todo))
            helpers = {asyncio.create_task(self._helper()) for _ in range(extra)}
            await self._with_helpers(asyncio.create_task(self._work(first)), helpers)
        finally:
            await ended({watch, *helpers})

    async def _with_helpers(
        self, main: asyncio.Task[None], helpers: set[asyncio.Task[None]]
    ) -> None:
        """Wait until all parts are here; the first fault ends the others."""
        waiting = {main, *helpers}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if not self._todo and not self._active:
                    break  # those left wait for a connection that is no longer needed
        finally:
            await ended({main})

    def _plan(self) -> _Pour | None:
        """Cut what is missing into parts; give the one that came with the source's answer."""
        remote, size = self._remote, self._remote.size
        if size is None or not remote.ranges:
            return _Pour(0, size, remote.first)
        holes = self._part.missing(size)
        longest = size // (4 * self._limits.per_file)
        longest = max(self._limits.min_piece, min(longest, self._limits.max_piece))
        begun = None
        if remote.first is not None and holes and holes[0][0] == remote.first_start:
            start, end = holes[0]
            stop = min(end, remote.first_end or end)
            begun = _Pour(start, stop, remote.first)
            holes[:1] = [(stop, end)] if stop < end else []
        elif remote.first is not None:
            remote.first.close()
        self._todo.extend(pieces(holes, longest))
        return begun

    async def _helper(self) -> None:
        async with self._slots.of(self._remote.url):
            await self._work(None)

    async def _work(self, pour: _Pour | None) -> None:
        """Take one part after the other until none is left."""
        while True:
            if pour is None:
                if not self._todo:
                    return
                pour = _Pour(*self._todo.popleft())
            self._active.add(pour)
            try:
                await self._persist(pour)
            finally:
                self._active.discard(pour)
                if pour.body is not None:
                    pour.body.close()
            pour = None

    async def _persist(self, pour: _Pour) -> None:
        """Bring one part, and try again where that may do."""
        fails = 0
        while True:
            before = pour.at
            try:
                await self._once(pour)
                return
            except SourceChanged:
                raise
            except InputFailed as fault:
                if not fault.retryable:
                    raise
                if not self._remote.ranges:
                    raise Dropped(
                        fault.message, blame="platform", retryable=True, details=fault.details
                    ) from fault
                on = pour.at - before >= _WORTH and not pour.silent
                fails = 1 if on else fails + 1
                if fails >= self._limits.tries or asks_too_much(self._limits, fault):
                    raise
                log.info("%s: %s; try %d", self._shown, fault.message, fails + 1)
                await asyncio.sleep(backoff(self._limits, fails, fault.retry_after_s))

    async def _once(self, pour: _Pour) -> None:
        pour.seen, pour.seen_at, pour.silent = time.monotonic(), pour.at, False
        if pour.body is None:
            pour.body = await self._source.open(self._remote, pour.at, pour.end)
            pour.seen = time.monotonic()
        body = pour.body
        try:
            await self._threads.finish(lambda: self._pour(pour, body), abort=body.close)
        except InputFailed:
            if pour.silent:
                raise self._silence() from None
            raise
        except OSError as fault:
            raise storing_fault(fault, self._shown) from fault
        finally:
            body.close()
            pour.body = None
        if pour.end is not None and pour.at < pour.end:
            if pour.silent:
                raise self._silence()
            whole = self._remote.size
            raise passing(f"{self._shown}: the source broke off after {pour.at} of {whole} bytes")

    def _pour(self, pour: _Pour, body: Body) -> None:
        """Move bytes from the source to the disk. Blocking: runs in a thread."""
        buffer = memoryview(bytearray(_BUFFER))
        checked = 0 if self._remote.size is None else math.inf
        while pour.end is None or pour.at < pour.end:
            room = _BUFFER if pour.end is None else min(_BUFFER, pour.end - pour.at)
            count = body.readinto(buffer[:room])
            if not count:
                return
            if self._max_bytes is not None and pour.at + count > self._max_bytes:
                raise too_large(self._shown, self._max_bytes)
            if pour.at >= checked:
                self._check_room()
                checked = pour.at + _CHECKED_EVERY
            self._part.write(pour.at, buffer[:count])
            pour.at += count

    async def _watch(self) -> None:
        """End connections that are silent, or as good as."""
        least = self._limits.min_rate * self._limits.idle_s
        while True:
            await asyncio.sleep(min(self._limits.tick_s, self._limits.idle_s / 4))
            now = time.monotonic()
            for pour in tuple(self._active):
                if pour.at - pour.seen_at >= least:
                    pour.seen, pour.seen_at = now, pour.at
                elif now - pour.seen > self._limits.idle_s and pour.body is not None:
                    pour.silent = True
                    pour.body.close()

    def _silence(self) -> InputFailed:
        return passing(
            f"{self._shown}: the source fell silent, or sent less than "
            f"{self._limits.min_rate:g} bytes/s for {self._limits.idle_s:g} s"
        )


def too_large(shown: str, most: int) -> InputFailed:
    """Make the fault of a file over its limit."""
    return InputFailed(f"{shown}: larger than {most} bytes", details={"max_bytes": most})


def asks_too_much(limits: Limits, fault: InputFailed) -> bool:
    """Tell whether a source asks for a longer wait than the whole download may take."""
    return (fault.retry_after_s or 0) > limits.total_s


def backoff(limits: Limits, fails: int, retry_after_s: float | None = None) -> float:
    """Give the seconds to wait; jitter keeps the parts of a file from coming back all at once."""
    wait = retry_after_s or limits.backoff_s * 2 ** (fails - 1)
    return min(wait, limits.longest_backoff_s) * random.uniform(1, 1.25)  # noqa: S311 - no secret
