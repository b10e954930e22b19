"""One downloader for all sources: in parts, resumed, tried again, checked, published whole.

A file appears under its final name only when it is complete. Until then its bytes lie beside it
in `.<name>.<key>.part`, with a note of which are there (`part.py`); they stay after a drop, a
cancellation or the end of the process, and the next download of the same URL to the same place
fetches the rest, if the source still has the same version of the file.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from handler.errors import HandlerError, InputFailed
from handler.inputs.redact import redacted
from handler.transfer.flight import Flight, Means
from handler.transfer.part import Part
from handler.transfer.records import Downloaded, Limits, MakeRoom, OnProgress, Progress, Wanted
from handler.transfer.room import Room, storing_fault
from handler.transfer.threads import Threads, ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.credentials import Auth
    from handler.transfer.base import Remote, Source

log = logging.getLogger("comfyfn.transfer")

_LOCK_POLL_S = 0.2


@dataclass(slots=True, eq=False)
class _Shared:
    """A download that several callers may wait for."""

    task: asyncio.Task[Downloaded]
    listeners: dict[object, OnProgress] = field(default_factory=dict)
    latest: Progress | None = None


class Downloader:
    """Fetches files from wherever the sources reach.

    Args:
        pick_source: gives the source of a URL; raises InputFailed where there is none.
        threads: for what blocks; shared with the sources.
        make_room: told before each download how much it will take, to free some.
    """

    def __init__(
        self,
        pick_source: Callable[[str], Source],
        *,
        threads: Threads | None = None,
        limits: Limits | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        self._pick = pick_source
        self._limits = limits or Limits()
        self._threads = threads or Threads()
        self._means = Means(
            self._limits,
            self._threads,
            Room(self._limits.spare_disk),
            asyncio.Semaphore(self._limits.connections),
            make_room,
        )
        self._shared: dict[Wanted, _Shared] = {}

    def __repr__(self) -> str:
        return f"<Downloader {len(self._shared)} under way>"

    async def download(self, wanted: Wanted, on_progress: OnProgress | None = None) -> Downloaded:
        """Fetch a file. Asked for the same while it is under way, it is fetched once.

        A caller who is cancelled leaves; the download ends when the last one has left.

        Args:
            on_progress: called on the event loop a few times a second.

        Raises:
            UrlNotAllowed: the address policy refuses where the URL leads.
            AccessDenied: the source wants other credentials, or any.
            DiskFull: it does not fit.
            InputFailed: there is no such file, it is not what was told, or it is damaged (caller);
                or the source is out of order or too slow (platform, retryable).
            InternalFault: the disk cannot be written.
        """
        shared = self._shared.get(wanted)
        if shared is None:
            shared = _Shared(asyncio.create_task(self._run(wanted)))
            self._shared[wanted] = shared
            shared.task.add_done_callback(lambda _: self._forget(wanted, shared))
        me = object()
        shared.listeners[me] = on_progress or _nothing
        if on_progress and shared.latest:
            on_progress(shared.latest)
        try:
            return await asyncio.shield(shared.task)
        except HandlerError as fault:
            # Each caller adds its own place to the fault.
            raise copy.copy(fault) from fault
        finally:
            shared.listeners.pop(me, None)
            if not shared.listeners and not shared.task.done():
                await self._abandon(wanted, shared)

    async def stat(self, url: str, auth: Auth | None = None) -> Remote:
        """Ask what a URL names, without fetching it.

        Raises:
            As `download`.
        """
        source = self._pick(url)
        async with self._means.slots:
            remote = await source.stat(url, auth)
            await source.release(remote)
        return remote

    async def check_access(self, url: str, auth: Auth | None = None) -> None:
        """Make sure that who asks may read a file that is here already.

        Raises:
            AccessDenied: they may not.
            InputFailed, UrlNotAllowed: as `download`.
        """
        async with self._means.slots:
            await self._pick(url).check_access(url, auth)

    async def close(self) -> None:
        """End what is under way; what is on disk stays for another try."""
        for wanted, shared in list(self._shared.items()):
            await self._abandon(wanted, shared)
        self._threads.close()

    def _forget(self, wanted: Wanted, shared: _Shared) -> None:
        if self._shared.get(wanted) is shared:
            del self._shared[wanted]

    async def _abandon(self, wanted: Wanted, shared: _Shared) -> None:
        # At once: who asks from now on must not join what is on its way out.
        self._forget(wanted, shared)
        await ended({shared.task})

    async def _run(self, wanted: Wanted) -> Downloaded:
        shown = redacted(wanted.url)
        try:
            async with asyncio.timeout(self._limits.total_s):
                source = self._pick(wanted.url)
                part = await _locked(wanted, shown)
                try:
                    flight = Flight(
                        wanted, source, part, self._means, lambda news: self._tell(wanted, news)
                    )
                    return await flight.run()
                finally:
                    part.close()
        except TimeoutError as fault:
            raise InputFailed(
                f"{shown}: not done within {self._limits.total_s:g} s",
                blame="platform",
                retryable=True,
            ) from fault

    def _tell(self, wanted: Wanted, news: Progress) -> None:
        shared = self._shared.get(wanted)
        if shared is None:
            return
        shared.latest = news
        for listener in list(shared.listeners.values()):
            try:
                listener(news)
            except Exception:  # it must not end the download
                log.exception("a listener of download progress failed")


async def _locked(wanted: Wanted, shown: str) -> Part:
    """Get hold of the part, after whoever else has it: another process, or other credentials."""
    try:
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        # Asked again and again: whoever has it may be another process.
        while (part := Part.locked(wanted.target, wanted.url)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOCK_POLL_S)
    except OSError as fault:
        raise storing_fault(fault, shown) from fault
    return part


def _nothing(_: Progress) -> None:
    """Listen to nothing."""
