"""Downloads under way: who asks for the same joins, who asks as somebody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from handler.errors import HandlerError
from handler.models.names import url_id
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from handler.models.item import Item
    from handler.models.records import ModelSource
    from handler.transfer.records import OnProgress, Progress

    Bring = Callable[["Flight"], Coroutine[None, None, Item | None]]

log = logging.getLogger("comfyfn.models")


@dataclass(slots=True, eq=False)
class Flight:
    """A download that several callers may wait for."""

    source: ModelSource
    task: asyncio.Task[Item | None] | None = None
    listeners: dict[object, OnProgress] = field(default_factory=dict)
    latest: Progress | None = None

    def tell(self, news: Progress) -> None:
        """Pass on how far it is."""
        self.latest = news
        for listener in list(self.listeners.values()):
            try:
                listener(news)
            except Exception:  # it must not end the download
                log.exception("a listener of download progress failed")


class Flights:
    """All downloads of a store.

    Args:
        landed: called with a flight when the last one who waited for it has what they wanted.
    """

    def __init__(self, landed: Callable[[Flight], None]) -> None:
        self._landed = landed
        self._lanes: dict[str, Flight] = {}

    async def wait(self, source: ModelSource) -> bool:
        """Wait for a download of the same file by somebody else; False where there is none."""
        for flight in self._others(source):
            if flight.task is not None:
                await asyncio.wait({flight.task})
            return True
        return False

    @contextlib.asynccontextmanager
    async def aboard(
        self, source: ModelSource, bring: Bring, listener: OnProgress | None
    ) -> AsyncIterator[Item | None]:
        """Join the download of a source, or begin it; gives what it brought.

        Who is cancelled leaves; the download ends when the last one has left.

        Raises:
            HandlerError: what the download raised, each time anew.
        """
        flight = self._lanes.get(_lanes(source)[0])
        if flight is None or not _same(flight.source, source):
            flight = self._begin(source, bring)
        assert flight.task is not None
        me = object()
        flight.listeners[me] = listener or _nothing
        if listener and flight.latest:
            listener(flight.latest)
        try:
            yield await _outcome(flight.task)
        finally:
            del flight.listeners[me]
            if not flight.listeners:
                await self._abandon(flight)

    def _begin(self, source: ModelSource, bring: Bring) -> Flight:
        flight = Flight(source)
        for lane in _lanes(source):
            self._lanes[lane] = flight
        flight.task = asyncio.create_task(bring(flight))
        flight.task.add_done_callback(lambda _: self._forget(flight))
        return flight

    async def _abandon(self, flight: Flight) -> None:
        # At once: who asks from now on must not join what is on its way out.
        self._forget(flight)
        try:
            if flight.task is not None:
                await ended({flight.task})
        finally:
            self._landed(flight)

    def _forget(self, flight: Flight) -> None:
        for lane in [lane for lane, one in self._lanes.items() if one is flight]:
            del self._lanes[lane]

    def _others(self, source: ModelSource) -> list[Flight]:
        found = [self._lanes[lane] for lane in _lanes(source) if lane in self._lanes]
        return [flight for flight in found if not _same(flight.source, source)]


async def _outcome(task: asyncio.Task[Item | None]) -> Item | None:
    try:
        return await asyncio.shield(task)
    except HandlerError as fault:
        # Each caller adds its own place to the fault.
        raise copy.copy(fault) from fault


def _lanes(source: ModelSource) -> list[str]:
    """Give what no two downloads may have in common."""
    return [url_id(source.url), *([source.sha256] if source.sha256 else [])]


def _same(one: ModelSource, other: ModelSource) -> bool:
    return replace(one, suffix="") == replace(other, suffix="")


def _nothing(_: Progress) -> None:
    """Listen to nothing."""
