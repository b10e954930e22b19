"""One download, from the first question to the final name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from handler.errors import HandlerError, InputFailed
from handler.inputs.redact import redacted
from handler.transfer.base import AccessDenied, DiskFull, FileSource, RangeSource, SourceChanged
from handler.transfer.ranges import Dropped, Ranges, asks_too_much, backoff
from handler.transfer.records import Downloaded, Progress
from handler.transfer.room import storing_fault
from handler.transfer.threads import beside
from handler.transfer.verify import Corrupt, RunningHash, check_file, check_told, sha256_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from handler.transfer.base import Remote, Source
    from handler.transfer.part import Part
    from handler.transfer.records import Limits, MakeRoom, OnProgress, Wanted
    from handler.transfer.room import Room
    from handler.transfer.slots import Slots
    from handler.transfer.threads import Threads

log = logging.getLogger("comfyfn.transfer")

_CHANGES = 3
_HASH_STEP = 16 << 20
_HASH_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Means:
    """What all downloads of a downloader share."""

    limits: Limits
    threads: Threads
    room: Room
    slots: Slots
    make_room: MakeRoom | None = None


@dataclass(slots=True)
class Flight:
    """A download on its way.

    Attributes:
        tell: called with the progress.
    """

    wanted: Wanted
    source: Source
    part: Part
    means: Means
    tell: OnProgress
    shown: str = ""
    resumed: int = 0
    _began: float = field(default_factory=time.monotonic)
    _brought: int = 0
    _seen: bool = False

    async def run(self) -> Downloaded:
        """Fetch, check and publish.

        Raises:
            SourceChanged, InputFailed, AccessDenied, UrlNotAllowed, DiskFull: as the port and the
                checks tell them. What is on disk stays for another try where one may do.
        """
        self.shown = redacted(self.wanted.url)
        try:
            return await self._with_restarts()
        except DiskFull:
            self.part.discard()
            raise
        except HandlerError as fault:
            # A refusal before the file was seen says nothing of what is on disk: who asks may
            # lack the right that the one before them had.
            if self._seen and not fault.retryable and not isinstance(fault, AccessDenied):
                self.part.discard()
            raise
        except OSError as fault:
            self.part.discard()
            raise storing_fault(fault, self.shown) from fault

    async def _with_restarts(self) -> Downloaded:
        drops = changes = 0
        doubted = False
        while True:
            try:
                # A source whose parts do not fit together twice is asked for the file in one go.
                return await self._once(parts=changes < 2 and not doubted)
            except SourceChanged as fault:
                changes += 1
                if changes > _CHANGES:
                    raise
                log.info("%s; beginning anew", fault.message)
            except Dropped as fault:
                drops += 1
                if drops >= self.means.limits.tries:
                    raise
                log.info("%s; beginning anew, try %d", fault.message, drops + 1)
                await asyncio.sleep(backoff(self.means.limits, drops, fault.retry_after_s))
            except Corrupt as fault:
                if not self.resumed:
                    raise
                log.warning("%s; some was of an earlier run, beginning anew", fault.message)
                doubted = isinstance(self.source, FileSource)
            self.resumed = 0
            self.part.begin(None, None)

    async def _once(self, *, parts: bool) -> Downloaded:
        async with self.means.slots.of(self.wanted.url):
            remote = await self._asked(parts=parts)
            self._seen = True
            try:
                check_told(self.wanted, remote, self.means.limits.max_bytes, self.shown)
                hexdigest = await self._brought_and_hashed(remote)
            finally:
                await self.source.release(remote)
        return self._published(remote, hexdigest)

    async def _asked(self, *, parts: bool) -> Remote:
        """Ask the source, again where that may do."""
        known = self.part.size
        holes = self.part.missing(known) if known else []
        start, end = holes[0] if holes and parts else (0, None)
        fails = 0
        while True:
            try:
                return await self.source.stat(
                    self.wanted.url, self.wanted.auth, start, end, parts=parts
                )
            except InputFailed as fault:
                fails += 1
                limits = self.means.limits
                if not fault.retryable or fails >= limits.tries or asks_too_much(limits, fault):
                    raise
                log.info("%s; try %d", fault.message, fails + 1)
                await asyncio.sleep(backoff(self.means.limits, fails, fault.retry_after_s))

    async def _brought_and_hashed(self, remote: Remote) -> str | None:
        """Bring the bytes and check them; give their SHA-256 where it was computed."""
        expected = self.wanted.sha256 or remote.sha256
        if isinstance(self.source, FileSource):
            path = await self._bring(self.source, remote)
            hasher = None
        else:
            assert isinstance(self.source, RangeSource)
            hasher = RunningHash() if expected else None
            await self._ranges(self.source, remote, hasher)
            path = self.part.path
        found = hasher.hexdigest() if hasher else None
        if expected and found is None:
            found = await self.means.threads.call(lambda: sha256_of(path))
        await self.means.threads.call(
            lambda: check_file(path, self.wanted, remote, found, self.shown)
        )
        return found

    async def _bring(self, source: FileSource, remote: Remote) -> Path:
        path = self.part.whole()
        if remote.size is not None:
            await self._make_room(remote.size)
        with self._room(remote.size):
            async with self._telling(remote):
                self.resumed = await source.bring(remote, path, self._count)
        return path

    def _count(self, done: int) -> None:
        self._brought = done

    async def _ranges(
        self, source: RangeSource, remote: Remote, hasher: RunningHash | None
    ) -> None:
        part = self.part
        if self._goes_on(remote):
            self.resumed = max(self.resumed, part.covered())
        else:
            self.resumed = 0
            part.begin(remote.etag, remote.size)
            if remote.first is not None and remote.first_start:
                remote.first.close()
                remote = replace(remote, first=None)
        if remote.size is not None:
            await self._make_room(remote.size - part.covered())
        means = self.means
        ranges = Ranges(
            source, remote, part, limits=means.limits, slots=means.slots, threads=means.threads,
            max_bytes=self._most(), shown=self.shown,
            check_room=lambda: means.room.check(part, self.shown),
        )  # fmt: skip
        with self._room(remote.size):
            async with self._telling(remote), self._hashing(hasher):
                await ranges.run()
        if hasher is not None:
            await self._advance(hasher, part.length())

    def _most(self) -> int | None:
        """Give how many bytes may come from a source that does not tell."""
        limits = (self.means.limits.max_bytes, self.wanted.most_untold)
        return min((limit for limit in limits if limit is not None), default=None)

    async def _advance(self, hasher: RunningHash, upto: int) -> None:
        await self.means.threads.finish(lambda: hasher.advance(self.part, upto), abort=hasher.stop)

    def _goes_on(self, remote: Remote) -> bool:
        """Tell whether the bytes on disk are of the very file that the source has now."""
        part = self.part
        if not part.covered() or not remote.ranges or part.size != remote.size:
            return False
        # Without a mark of the version, only a hash at the end can tell.
        return part.etag == remote.etag and bool(remote.etag or self.wanted.sha256)

    async def _make_room(self, count: int) -> None:
        # Before anything is removed for it: a source may tell any size.
        self.means.room.possible(self.part, count, self.shown)
        if self.means.make_room is not None:
            await self.means.make_room(self.wanted.target.parent, count)

    def _room(self, size: int | None) -> contextlib.AbstractContextManager[None]:
        return self.means.room.kept(self.part, size or 0, self.shown)

    def _published(self, remote: Remote, hexdigest: str | None) -> Downloaded:
        self.part.publish()
        seconds = time.monotonic() - self._began
        size = self.wanted.target.stat().st_size
        came = size - self.resumed
        log.info(
            "fetched %s: %.1f MB in %.1f s, %.1f MB/s%s", self.shown, came / 1e6, seconds,
            came / 1e6 / max(seconds, 1e-6),
            f", {self.resumed / 1e6:.1f} MB were there" if self.resumed else "",
        )  # fmt: skip
        self.tell(Progress(size, size, came / max(seconds, 1e-6)))
        return Downloaded(
            self.wanted.target, size, hexdigest, seconds, self.resumed,
            remote.filename_hint, remote.content_type, remote.etag,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _telling(self, remote: Remote) -> AsyncIterator[None]:
        """Tell the progress every now and then during a block."""

        async def tick() -> None:
            rate, at, done = 0.0, time.monotonic(), self._done()
            while True:
                self.tell(Progress(done, remote.size, rate))
                await asyncio.sleep(self.means.limits.tick_s)
                now, before = time.monotonic(), done
                done = self._done()
                latest = max(0, done - before) / max(now - at, 1e-6)
                rate = latest if not rate else 0.7 * rate + 0.3 * latest
                at = now

        async with beside(tick()):
            yield

    def _done(self) -> int:
        return self._brought or self.part.covered()

    @contextlib.asynccontextmanager
    async def _hashing(self, hasher: RunningHash | None) -> AsyncIterator[None]:
        """Hash along with the transfer: what is left to do after it is little."""

        async def along() -> None:
            while hasher is not None:
                if self.part.prefix() - hasher.at >= _HASH_STEP:
                    await self._advance(hasher, self.part.prefix())
                else:
                    await asyncio.sleep(_HASH_POLL_S)

        async with beside(along()):
            yield
