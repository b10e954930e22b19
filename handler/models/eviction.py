"""Keeps the store within its budget: what was used longest ago goes first, with its links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from typing import TYPE_CHECKING

from handler.models.item import unlink_links
from handler.transfer.base import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from handler.models.incoming import Incoming
    from handler.models.index import Index
    from handler.models.item import Item
    from handler.models.pins import Pins

    OnRemoved = Callable[[str, Path, int], None]

log = logging.getLogger("comfyfn.models")

_SPARE = 1 << 30


class Evictor:
    """Removes what the budget has no room for.

    Args:
        budget: bytes that objects and what is on its way may take; 0 for no limit.
        on_removed: told of each object that went: a URL that it was had from, without secrets, or
            ""; where it was, and its bytes.
    """

    def __init__(
        self,
        index: Index,
        pins: Pins,
        incoming: Incoming,
        budget: int,
        on_removed: OnRemoved | None = None,
    ) -> None:
        self._index = index
        self._pins = pins
        self._incoming = incoming
        self._budget = budget
        self._on_removed = on_removed

    async def make_room(self, folder: Path, count: int) -> None:
        """Free what a download into a folder will need; other folders than ours are let be.

        Raises:
            DiskFull: the file alone is over the budget: everything would go, and not suffice.
        """
        if not self._incoming.promise(folder, count):
            return
        coming = self._incoming.promised(folder)
        if self._budget and coming > self._budget:
            raise DiskFull(
                f"the file has {_mb(coming)}, and the cache's whole budget is {_mb(self._budget)}",
                hint="raise LRU_CACHE_SIZE_GB",
                details={"needed": coming, "budget": self._budget},
            )
        await self.fit()
        if shutil.disk_usage(folder).free < count + _SPARE:
            # Without a budget, too: what others began and left must not keep the disk full.
            await asyncio.to_thread(self._incoming.clear)

    async def fit(self) -> None:
        """Evict until everything is within the budget, or nothing more may go."""
        if self._budget:
            self._index.refresh()
            await asyncio.to_thread(empty, self._fitted())

    def fit_now(self) -> None:
        """Do the same. Blocking."""
        if self._budget:
            empty(self._fitted())

    def remove(self, item: Item) -> Path | None:
        """Take an item out of the store with its links, if nobody needs it.

        Returns:
            Where its bytes are until `empty`; None where it is in use.

        Raises:
            OSError: the folder cannot be written.
        """
        with self._pins.free(item) as free:
            gone = _taken_out(item, self._index) if free else None
        if gone is not None and self._on_removed is not None:
            self._on_removed(item.shown, item.path, item.bytes)
        return gone

    def _fitted(self) -> list[Path]:
        """Take out what must go. On the event loop: what is asked for meanwhile finds it gone."""
        over = self._over()
        trash: list[Path] = []
        if over <= 0:
            return trash
        over -= self._incoming.clear()
        for item in sorted(self._index, key=self._index.last_use):
            if over <= 0:
                break
            try:
                gone = self.remove(item)
            except OSError as fault:
                log.warning("%s cannot be evicted: %s", item.key, fault.strerror)
                continue
            if gone is not None:
                trash.append(gone)
                over -= item.bytes
                log.info(
                    "evicted %s, %s, last used %.0f s ago", item.leaf, _mb(item.bytes),
                    time.time() - item.last_use,
                )  # fmt: skip
        if over > 0:
            log.warning(
                "the store is %s over LRU_CACHE_SIZE_GB: all that is left is in use", _mb(over)
            )
        return trash

    def _over(self) -> int:
        files = {item.inode: item.bytes for item in self._index}
        return sum(files.values()) + self._incoming.bytes() - self._budget


def discard(item: Item, index: Index) -> None:
    """Take out an item whose file is gone or damaged, with its links. Blocking."""
    try:
        gone = _taken_out(item, index)
    except OSError as fault:
        log.warning("%s cannot be removed: %s", item.path.name, fault.strerror)
        index.drop(item)
        return
    if gone is not None:
        empty([gone])


def empty(trash: Iterable[Path]) -> None:
    """Remove the bytes of what was taken out. Blocking: a large file may take a second."""
    for path in trash:
        with contextlib.suppress(OSError):
            path.unlink()


def _taken_out(item: Item, index: Index) -> Path | None:
    """Remove an item's links, then give its file another name, then remove its note."""
    unlink_links(item)
    trash = item.path.with_name(f".gone-{secrets.token_hex(8)}")
    try:
        item.path.rename(trash)
        there = True
    except FileNotFoundError:
        there = False
    index.drop(item)
    index.note_path(item).unlink(missing_ok=True)
    # That of comfyui-api, where the file is one of its cache.
    item.path.with_name(f"{item.path.name}.meta").unlink(missing_ok=True)
    return trash if there else None


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
