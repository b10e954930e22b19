"""The store of models: each content once, found again after a restart, kept within a budget.

`objects/` has the files and their notes, `incoming/` what is on its way. Model folders get links.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from handler.errors import CallerError, InputFailed, InternalFault, NotFound
from handler.inputs.redact import redacted
from handler.metrics import Metrics
from handler.models.access import may_have
from handler.models.adopt import adopt, is_whole, tells_whole
from handler.models.arrivals import admit
from handler.models.eviction import Evictor, discard, empty
from handler.models.flights import Flight, Flights
from handler.models.incoming import Incoming
from handler.models.index import Index
from handler.models.pins import Pins
from handler.models.publish import NameTaken, link
from handler.models.records import Stored
from handler.transfer.records import Wanted
from handler.transfer.room import storing_fault
from handler.transfer.verify import sha256_of

if TYPE_CHECKING:
    from handler.models.eviction import OnRemoved
    from handler.models.item import Item
    from handler.models.records import ModelSource
    from handler.transfer.download import Downloader
    from handler.transfer.records import OnDone, OnProgress

__all__ = ["Entry", "InUse", "NameTaken", "Store"]

log = logging.getLogger("comfyfn.models")

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Each has files open even while it waits for a connection.
_BROUGHT_AT_ONCE = 64


class InUse(CallerError):
    """A job needs the file now."""

    code = "in_use"
    status = 409


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the store, for people.

    Attributes:
        url: where it was had from, without secrets; "" where that is not known.
        last_use: seconds since the epoch.
        links: where it was published.
    """

    key: str
    leaf: str
    bytes: int
    url: str
    last_use: float
    protected: bool
    pinned: bool
    links: tuple[Path, ...]


class Store:
    """Brings models, once each, and keeps them.

    Args:
        root: its folder; a cache of comfyui-api is taken over.
        budget: bytes that it may take; 0 for no limit.
        metrics: counts what was here and what was fetched.
        on_done, on_removed: told of each model that came or went; they raise nothing.
    """

    def __init__(
        self,
        root: Path,
        *,
        budget: int = 0,
        metrics: Metrics | None = None,
        on_done: OnDone | None = None,
        on_removed: OnRemoved | None = None,
    ) -> None:
        self.root = Path(os.path.normpath(root.expanduser().absolute()))
        self._budget = budget
        self._metrics = metrics or Metrics()
        self._index = Index(self.root)
        self._pins = Pins()
        self._incoming = Incoming(self.root)
        self._on_done = on_done
        self._evictor = Evictor(self._index, self._pins, self._incoming, budget, on_removed)
        self._flights = Flights(self._pins.release)
        # The operator's do not wait behind those of callers.
        self._gates = {by: asyncio.Semaphore(_BROUGHT_AT_ONCE) for by in (False, True)}
        self._callers: Downloader | None = None
        self._operator: Downloader | None = None

    def __repr__(self) -> str:
        return f"<Store {self.root} {len(self._index)} objects>"

    def attach(self, callers: Downloader, operator: Downloader) -> None:
        """Say who fetches: callers' URLs are held to the address policy, the operator's are not."""
        self._callers, self._operator = callers, operator

    def open(self) -> None:
        """Read what is on disk, take over a cache of comfyui-api, and fit the budget. Blocking.

        Raises:
            InternalFault: the folder cannot be made or read.
        """
        try:
            self._index.load()
            adopt(self._index)
            self._incoming.clear_stale()
            self._evictor.fit_now()
        except OSError as fault:
            raise InternalFault(f"CACHE_DIR {self.root}: {fault.strerror}") from fault

    def close(self) -> None:
        """Keep nothing for anybody any more; other processes may remove what they want."""
        self._pins.clear()

    async def get(
        self, source: ModelSource, owner: str, on_progress: OnProgress | None = None
    ) -> Stored:
        """Have a model in the store, and keep it for an owner until `release`.

        Args:
            on_progress: called on the event loop while it is fetched.

        Raises:
            AccessDenied: the source refuses who asks, also where the file is here.
            UrlNotAllowed, InputFailed, DiskFull, InternalFault: as the downloader.
        """
        began = time.monotonic()
        source = _normal(source)
        while True:
            item = self._known(source)
            if item is not None and await self._kept(item, source, owner):
                self._index.touch(item)
                self._metrics.model_had(fetched=False)
                return _stored(item, began, fetched=False)
            if await self._flights.wait(source):
                continue
            async with self._flights.aboard(source, self._bring, on_progress) as item:
                if item is not None and self._pins.pin(item, owner):
                    self._metrics.model_had(fetched=True)
                    return _stored(item, began, fetched=True)

    async def find(self, source: ModelSource) -> Stored | None:
        """Give a model of the operator's if it is here, whole; the network is not asked.

        It is kept for nobody: `publish` and `use` it at once.
        """
        began = time.monotonic()
        source = _normal(source)
        item, me = self._known(source), object()
        if item is None or not self._pins.pin(item, me):
            return None
        try:
            if not await self._fits(item, source, ask=False):
                return None
        finally:
            self._pins.unpin(item, me)
        self._index.touch(item)
        return _stored(item, began, fetched=False)

    async def publish(self, stored: Stored, target: Path) -> bool:
        """Make a model appear in a model folder, by a link.

        Args:
            target: absolute; folders are made.

        Returns:
            Whether the link was made now.

        Raises:
            NameTaken: there is another file by this name.
            TooManyNames: the model has as many as it may have.
            InternalFault: the folder cannot be written.
        """
        item = self._index.get(stored.key)
        if item is None:
            raise InternalFault(f"{stored.leaf} vanished from the cache", retryable=True)
        there = os.path.lexists(target)
        if await asyncio.to_thread(link, item, target):
            item.links.add(target)
            self._index.add(item)
            self._index.save(item)
            return not there
        if (other := self._index.by_file(target)) is not None:
            self._pins.spread(item, other)
        return False

    def withdraw(self, stored: Stored, target: Path) -> None:
        """Take back a link that `publish` made, if it still is that model's."""
        item = self._index.get(stored.key)
        if item is not None and target in item.links and self._index.by_file(target) is item:
            target.unlink(missing_ok=True)
            item.links.discard(target)
            self._index.save(item)

    def use(self, path: Path, owner: str) -> bool:
        """Note that a file of a model folder is used, and keep it, if it is the store's."""
        item = self._index.by_file(path)
        if item is None or not self._pins.pin(item, owner):
            return False
        self._index.touch(item)
        return True

    def release(self, owner: str) -> None:
        """Keep nothing for this owner any more."""
        self._pins.release(owner)

    async def make_room(self, folder: Path, count: int) -> None:
        """Free what a download needs: the downloaders' hook."""
        await self._evictor.make_room(folder, count)

    def entries(self) -> list[Entry]:
        """List the objects, the last used first. Blocking, short."""
        items = sorted(self._index, key=self._index.last_use, reverse=True)
        return [
            Entry(
                item.key, item.leaf, item.bytes, item.shown, item.last_use, item.protected,
                item in self._pins, tuple(sorted(item.links)),
            )
            for item in items
        ]  # fmt: skip

    async def remove(self, key: str) -> int:
        """Remove an object and its links, and give the bytes that it took.

        Raises:
            NotFound: there is no such object.
            InUse: somebody needs it now.
        """
        item = self._index.get(key)
        if item is None:
            raise NotFound(f"the cache has no {key[:100]}")
        try:
            gone = self._evictor.remove(item)
        except OSError as fault:
            raise storing_fault(fault, item.leaf) from fault
        if gone is None and self._index.get(key) is item:
            raise InUse(f"{item.leaf} is in use", hint="try again when the job is done")
        await asyncio.to_thread(empty, [gone] if gone else [])
        return item.bytes

    def _known(self, source: ModelSource) -> Item | None:
        """Find what a source is, or may be. A file that is not whole any more goes."""
        while True:
            item = self._index.by_sha256(source.sha256) if source.sha256 else None
            item = item or self._index.by_url(source.url)
            if item is None or self._index.present(item):
                return item
            log.warning("%s vanished from the cache, or is damaged", item.leaf)
            discard(item, self._index)

    async def _kept(self, item: Item, source: ModelSource, owner: str) -> bool:
        """Pin an item for an owner, if it is what the source means and they may have it."""
        if not self._pins.pin(item, owner):
            return False
        good = False
        try:
            good = await self._fits(item, source) and await may_have(
                item, source, self._index, self._downloader(replace(source, operator=False))
            )
        finally:
            if not good:
                self._pins.unpin(item, owner)
        return good

    async def _fits(self, item: Item, source: ModelSource, *, ask: bool = True) -> bool:
        """Tell whether an item is what the source means, by all that is told of it."""
        async with item.look:
            if not item.verified:
                if ask:
                    whole: bool | None = await is_whole(item, source, self._downloader(source))
                else:
                    whole = await tells_whole(item)
                if whole is False:
                    discard(item, self._index)
                if not whole:
                    return False
                item.verified = True
                self._index.save(item)
            if source.sha256 and item.sha256 is None:
                item.sha256 = await asyncio.to_thread(sha256_of, item.path)
                self._index.add(item)
                self._index.save(item)
        if source.sha256:
            return item.sha256 == source.sha256
        return source.size in {None, item.bytes}

    async def _bring(self, flight: Flight) -> Item | None:
        """Fetch a file; None where another worker brought it meanwhile."""
        async with self._gates[flight.source.operator]:
            return await self._brought(flight)

    async def _brought(self, flight: Flight) -> Item | None:
        source = flight.source
        before = self._known(source)
        target = self._incoming.target(source.url)
        try:
            async with self._incoming.locked(target.parent):
                self._index.refresh()
                if self._known(source) is not before:
                    return None
                wanted = Wanted(
                    source.url, target, sha256=source.sha256, size=source.size, auth=source.auth,
                    most_untold=self._budget or None, quiet=True,
                )  # fmt: skip
                got = await self._downloader(source).download(wanted, flight.tell)
                item = await admit(self._index, source, got)
                self._pins.pin(item, flight)
                if self._on_done is not None:
                    self._on_done(source.url, item.path, item.bytes, got.seconds)
        except OSError as fault:
            raise storing_fault(fault, redacted(source.url)) from fault
        await self._evictor.fit()
        return item

    def _downloader(self, source: ModelSource) -> Downloader:
        downloader = self._operator if source.operator else self._callers
        assert downloader is not None, "Store.attach comes first"
        return downloader


def _normal(source: ModelSource) -> ModelSource:
    """Give a source whose hash is written as ours are.

    Raises:
        InputFailed: it is no SHA-256.
    """
    if source.sha256 is None:
        return source
    sha256 = source.sha256.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(sha256):
        raise InputFailed("sha256 must be 64 hexadecimal digits")
    return replace(source, sha256=sha256)


def _stored(item: Item, began: float, *, fetched: bool) -> Stored:
    return Stored(
        key=item.key,
        path=item.path,
        leaf=item.leaf,
        bytes=item.bytes,
        fetched=fetched,
        seconds=time.monotonic() - began,
        protected=item.protected,
    )
