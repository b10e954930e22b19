"""Outputs that are kept after their job, for as long and as many as the operator set.

    outputs/<xx>/<uid>/<hash of name>                    the bytes
    kept/<tttttt>/<expiry>-<bytes>-<uid>-<hash of name>  marks them, first to expire first

The mark says all that the expiry and the budget need to know, and is written first: what a crash
leaves is found by it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self

from handler.state.layout import hashed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from handler.state.store import StateStore

log = logging.getLogger("comfyfn.state")
BLOCK_BYTES = 1 << 18
_MARK = re.compile(r"kept/\d{6}/(\d{13})-(\d{15})-([\da-z-]{1,64})-([\da-f]{32})")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/\\\u2028\u2029\ud800-\udfff]")
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Mark:
    """One kept output, as its mark tells.

    Attributes:
        expires: Unix seconds.
    """

    key: str
    expires: float
    bytes: int
    file: str

    @classmethod
    def of(cls, key: str) -> Mark | None:
        """Read a mark; None where it is none."""
        found = _MARK.fullmatch(key)
        if found is None:
            return None
        at, size, uid, name = found.groups()
        return cls(key, int(at) / 1000, int(size), f"outputs/{uid[:2]}/{uid}/{name}")


class Kept:
    """Keeps outputs and gives them out. Every method may raise StateUnavailable.

    Args:
        retention_s: how long each is kept; 0 for not at all.
        budget_bytes: of all together, all workers'; the first to expire give way. 0: no limit.
    """

    def __init__(self, store: StateStore, retention_s: float, budget_bytes: int = 0) -> None:
        self._store = store
        self._blobs = store.blobs
        self._retention_s = retention_s
        self._budget = budget_bytes
        self._total: int | None = None  # as far as we know: others keep and remove, too
        self._room = asyncio.Lock()

    async def put(self, uid: str, name: str, path: Path, now: float) -> bool:
        """Keep a file. It is linked where that is possible: it must not be written to any more.

        Returns:
            Whether it is kept: not where nothing is to be kept, or it alone is over the budget.

        Raises:
            OSError: there is no such file.
        """
        size = path.stat().st_size
        if self._retention_s <= 0 or (self._budget and size > self._budget):
            return False
        expires = f"{round((now + self._retention_s) * 1000):013d}"
        mark = f"kept/{expires[:6]}/{expires}-{size:015d}-{uid}-{hashed(name)}"
        await self._make_room(size)
        await self._store.call(partial(self._blobs.mark, mark))
        await self._store.call(partial(self._blobs.keep, _file(uid, name), path))
        return True

    async def open(
        self, uid: str, name: str, first: int = 0, last: int | None = None
    ) -> KeptFile | None:
        """Open an output, or a part of it.

        Args:
            first, last: positions of the first and the last byte wanted; they must exist.

        Returns:
            The file, to be closed; None where it is not kept any more.
        """
        opening = partial(self._blobs.open_file, _file(uid, name), first, last)
        file = await self._store.call(opening, dispose=_close)
        limit = None if last is None else last - first + 1
        return KeptFile(self._store, file, limit) if file is not None else None

    def open_now(self, uid: str, name: str) -> BinaryIO | None:
        """Open an output as a plain file. Blocking."""
        return self._blobs.open_file(_file(uid, name))

    async def has(self, uid: str, name: str) -> bool:
        """Tell whether an output is still kept."""
        opening = partial(self._blobs.open_file, _file(uid, name), 0, 0)
        file = await self._store.call(opening, dispose=_close)
        if file is not None:
            file.close()
        return file is not None

    async def expire(self, now: float) -> int:
        """Remove what has been kept for long enough, and count the rest.

        Returns:
            How many files were removed.
        """
        removed = total = 0
        async for mark in self._marks():
            if mark.expires <= now:
                await self._drop(mark)
                removed += 1
            elif not self._budget:
                break  # the first to expire come first, and nobody wants the sum
            else:
                total += mark.bytes
        self._total = total
        return removed

    async def _make_room(self, size: int) -> None:
        if not self._budget:
            return
        async with self._room:
            if self._total is None or self._total + size > self._budget:
                marks = [mark async for mark in self._marks()]
                total = sum(mark.bytes for mark in marks)
                for mark in marks:
                    if total + size <= self._budget:
                        break
                    log.warning("OUTPUT_MAX_MB is reached: an output goes before its time")
                    await self._drop(mark)
                    total -= mark.bytes
                self._total = total
            self._total += size

    async def _marks(self) -> AsyncIterator[Mark]:
        after = ""
        while keys := await self._store.call(partial(self._blobs.names, "kept/", after, 1000)):
            after = keys[-1]
            for mark in filter(None, map(Mark.of, keys)):
                yield mark

    async def _drop(self, mark: Mark) -> None:
        await self._store.call(partial(self._blobs.remove, mark.file))
        await self._store.call(partial(self._blobs.remove, mark.key))


class KeptFile:
    """An opened output; an async context.

    Args:
        limit: bytes to give; None for all.
    """

    def __init__(self, store: StateStore, file: BinaryIO, limit: int | None) -> None:
        self._store = store
        self._file = file
        self._limit = limit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it; more than once is fine."""
        self._file.close()

    async def blocks(self) -> AsyncIterator[bytes]:
        """Give the bytes block by block.

        Raises:
            OSError: the file ends too early, or cannot be read.
        """
        left = self._limit
        while left is None or left > 0:
            size = BLOCK_BYTES if left is None else min(BLOCK_BYTES, left)
            block = await self._store.call(partial(self._file.read, size))
            if not block:
                if left:
                    raise OSError("a kept output is shorter than it was")
                return
            if left is not None:
                left -= len(block)
            yield block


def output_name(filename: str, taken: Collection[str]) -> str:
    """Give the name that an output is kept under: a leaf, and unlike those that are taken.

    Upper and lower case count as the same: the caller may store the files where they are.
    """
    leaf = _UNPRINTABLE.sub("_", PurePosixPath(filename.replace("\\", "/")).name).strip()
    leaf = leaf.lstrip(".") or "output"
    stem, suffix = PurePosixPath(leaf).stem, PurePosixPath(leaf).suffix[:20]
    while len(f"{stem}{suffix}".encode()) > _LONGEST_NAME:
        stem = stem[:-1]
    name, number = f"{stem}{suffix}", 1
    lower = {one.casefold() for one in taken}
    while name.casefold() in lower:
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        file.close()


def _file(uid: str, name: str) -> str:
    return f"outputs/{uid[:2]}/{uid}/{hashed(name)}"
