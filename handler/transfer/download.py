"""One downloader for all sources: in parts, resumed, tried again, checked, published whole.

A file appears under its final name only when it is complete. Until then its bytes lie beside it
in `.<name>.<key>.part`, with a note of which are there (`part.py`); they stay after a drop, a
cancellation or the end of the process, and the next download of the same URL to the same place
fetches the rest, if the source still has the same version of the file. What nobody took up for a
week is removed by the next download into the same folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from handler.errors import HandlerError, InputFailed
from handler.inputs.redact import redacted
from handler.transfer.base import Admitting
from handler.transfer.flight import Flight, Means
from handler.transfer.http_line import passing
from handler.transfer.part import Part, part_path, remove_stale_parts
from handler.transfer.records import (
    Downloaded,
    Limits,
    MakeRoom,
    OnDone,
    OnProgress,
    Progress,
    Wanted,
)
from handler.transfer.room import Room, storing_fault
from handler.transfer.slots import Slots
from handler.transfer.threads import Threads, ended
from handler.transfer.verify import check_file, check_told, sha256_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from handler.credentials import Auth
    from handler.settings import Settings
    from handler.transfer.base import Remote, Source

log = logging.getLogger("comfyfn.transfer")

_LOCK_POLL_S = 0.2
_STALE_S = 7 * 86400.0
_SILENCES = 4
"""How many times the longest silence a question to a source may take, redirects and all."""


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
        on_done: told of each file that came, on the event loop, unless it is to be quiet.
        count: told the URL and the bytes of each file that came; not those that were here.
    """

    def __init__(
        self,
        pick_source: Callable[[str], Source],
        *,
        threads: Threads | None = None,
        limits: Limits | None = None,
        make_room: MakeRoom | None = None,
        on_done: OnDone | None = None,
        count: Callable[[str, int], None] | None = None,
    ) -> None:
        self._pick = pick_source
        self._on_done = on_done
        self._count = count
        self._limits = limits or Limits()
        self._threads = threads or Threads()
        self._means = Means(
            self._limits,
            self._threads,
            Room(self._limits.spare_disk),
            Slots(self._limits.connections, self._limits.per_host),
            make_room,
        )
        # Apart: slow downloads may hold their connections for hours.
        self._questions = Slots(self._limits.connections, self._limits.per_host)
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
        async with self._asking(url):
            remote = await source.stat(url, auth, 0, 1)  # one byte, where parts can be had
            await source.release(remote)
        return remote

    async def admit(self, url: str) -> None:
        """Refuse at once what cannot or must not be fetched; what a host answers is not known yet.

        Raises:
            UrlNotAllowed: the address policy refuses the URL's host.
            InputFailed: no source takes such a URL, or it names nothing that may be taken.
        """
        source = self._pick(url)
        if isinstance(source, Admitting):
            await source.admit(url)

    def renew(self, settings: Settings | None = None) -> None:
        """Forget the connections and clients of the sources; see `Sources.renew`."""
        renew = getattr(self._pick, "renew", None)
        if renew is not None:
            renew(settings)

    async def close(self) -> None:
        """End what is under way; what is on disk stays for another try."""
        for wanted, shared in list(self._shared.items()):
            await self._abandon(wanted, shared)
        self._threads.close()

    @contextlib.asynccontextmanager
    async def _asking(self, url: str) -> AsyncIterator[None]:
        """Hold a connection for a question; a source that draws it out must not keep that."""
        limit_s = _SILENCES * self._limits.idle_s
        async with self._questions.of(url):
            try:
                async with asyncio.timeout(limit_s):
                    yield
            except TimeoutError as fault:
                raise passing(f"{redacted(url)}: no answer within {limit_s:g} s") from fault

    def _forget(self, wanted: Wanted, shared: _Shared) -> None:
        if self._shared.get(wanted) is shared:
            del self._shared[wanted]

    async def _abandon(self, wanted: Wanted, shared: _Shared) -> None:
        # At once: who asks from now on must not join what is on its way out.
        self._forget(wanted, shared)
        await ended({shared.task})

    async def _run(self, wanted: Wanted) -> Downloaded:
        shown = redacted(wanted.url)
        limits = _limits_of(wanted, self._limits)
        means = replace(self._means, limits=limits)
        try:
            async with asyncio.timeout(limits.total_s):
                source = self._pick(wanted.url)
                part, brought = await _locked(wanted, shown)
                try:
                    await self._threads.call(
                        lambda: remove_stale_parts(wanted.target.parent, _STALE_S)
                    )
                    if brought and (theirs := await self._theirs(wanted, source, limits)):
                        return theirs
                    flight = Flight(
                        wanted, source, part, means, lambda news: self._tell(wanted, news)
                    )
                    got = await flight.run()
                    if self._count is not None:
                        self._count(wanted.url, got.bytes - got.resumed_bytes)
                    if self._on_done is not None and not wanted.quiet:
                        self._on_done(wanted.url, got.path, got.bytes, got.seconds)
                    return got
                finally:
                    part.close()
        except TimeoutError as fault:
            raise InputFailed(
                f"{shown}: not done within {limits.total_s:g} s",
                blame="platform",
                retryable=True,
            ) from fault

    async def _theirs(self, wanted: Wanted, source: Source, limits: Limits) -> Downloaded | None:
        """Take the file that another process brought while this one waited for it.

        A fleet that starts on one volume fetches a model once. The source is asked all the same:
        for the right to it, and whether it still is that file.
        """
        began, shown, path = time.monotonic(), redacted(wanted.url), wanted.target
        try:
            async with self._means.slots.of(wanted.url):
                remote = await source.stat(wanted.url, wanted.auth)
                await source.release(remote)
            check_told(wanted, remote, limits.max_bytes, shown)
            if remote.size is None:
                return None
            expected, found = wanted.sha256 or remote.sha256, None
            if expected:
                found = await self._threads.call(lambda: sha256_of(path))
            await self._threads.call(lambda: check_file(path, wanted, remote, found, shown))
        except (HandlerError, OSError) as fault:
            log.info("%s: what another process brought is not taken: %s", shown, fault)
            return None
        log.info("%s was brought by another process", shown)
        return Downloaded(
            path, remote.size, found, time.monotonic() - began, remote.size,
            remote.filename_hint, remote.content_type, remote.etag,
        )  # fmt: skip

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


def _limits_of(wanted: Wanted, limits: Limits) -> Limits:
    """Give the limits of one file: its own where it has any."""
    return replace(
        limits,
        max_bytes=limits.max_bytes if wanted.max_bytes is None else wanted.max_bytes,
        total_s=limits.total_s if wanted.total_s is None else wanted.total_s,
        tries=limits.tries if wanted.tries is None else wanted.tries,
    )


async def _locked(wanted: Wanted, shown: str) -> tuple[Part, bool]:
    """Get hold of the part, after whoever else has it: another process, or other credentials.

    Returns:
        The part, and whether the file at the target is the one that they brought meanwhile.
    """
    path = part_path(wanted.target, wanted.url)
    theirs: set[tuple[int, int]] = set()
    try:
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        # Asked again and again: whoever has it may be another process.
        while (part := Part.locked(wanted.target, wanted.url)) is None:
            theirs |= _identity(path)
            await asyncio.sleep(_LOCK_POLL_S)
    except OSError as fault:
        raise storing_fault(fault, shown) from fault
    return part, bool(theirs & _identity(wanted.target))


def _identity(path: Path) -> set[tuple[int, int]]:
    """Tell one file from another, whatever its name; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return {(status.st_dev, status.st_ino)}
    return set()


def _nothing(_: Progress) -> None:
    """Listen to nothing."""
