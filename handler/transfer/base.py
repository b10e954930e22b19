"""The port between the downloader and where bytes come from, and the records that pass it.

Bytes are read by blocking calls in threads: measured with three files of 1 GiB on loopback, four
connections each, `readinto` and `pwrite` took 2.3 s of CPU, aiohttp 4.1 s and httpx 11.9 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from handler.errors import InputFailed, PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from handler.credentials import Auth

PROBE_BYTES = 16 << 20
"""How much the first request for a file asks for; also the smallest piece worth a connection."""


class AccessDenied(InputFailed):
    """The source wants other credentials than it got, or any at all."""

    code = "access_denied"


class SourceChanged(InputFailed):
    """The file is no longer the one that the download began with, or it cannot be had in part.

    The downloader starts again from the first byte.
    """


class DiskFull(PlatformError):
    """The file does not fit the disk it is meant for."""

    code = "disk_full"
    status = 507


class Body(Protocol):
    """Bytes on their way, in order. Blocking: used in a thread."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as bytes are at hand; at least one, 0 at the end.

        Raises:
            InputFailed: the connection was lost or is silent (retryable).
        """
        ...

    def close(self) -> None:
        """End it. May be called from any thread, any number of times; wakes a `readinto`."""
        ...


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as its source tells of it.

    Attributes:
        url: what was asked for; may hold secrets, so it is in no text made of this.
        size: in bytes; None where the source does not tell.
        etag: what tells one version from another: the ETag, else the date of change; None for
            neither.
        ranges: whether parts can be had.
        sha256: of the content, hexadecimal, where the source publishes it.
        filename_hint: the name the source gives it, no folder in it; "" for none.
        content_type: the media type that the source claims, lower case; "" for none.
        host: whom a message about it names.
        first: what came with the answer already: bytes from `first_start` on, up to `first_end`.
        handle: the source's own notes.
    """

    url: str = field(repr=False)
    size: int | None
    etag: str | None
    ranges: bool
    sha256: str | None = None
    filename_hint: str = ""
    content_type: str = ""
    host: str = ""
    first: Body | None = field(default=None, repr=False, compare=False)
    first_start: int = 0
    first_end: int | None = None
    handle: object = field(default=None, repr=False, compare=False)


class Source(Protocol):
    """Where files come from."""

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask what a URL names.

        Args:
            start, end: the first run of bytes that is missing here: `Remote.first` begins there
                where it can, and brings no more than that.
            parts: False to have the file in one go, from the source itself: for one whose parts,
                or what is kept of them, are no good.

        Raises:
            AccessDenied: the credentials are not the right ones.
            UrlNotAllowed: the address policy refuses where it leads.
            InputFailed: no such file (blame caller), or the source is out of order (retryable).
        """
        ...

    async def release(self, remote: Remote) -> None:
        """Close what a `stat` and its reads left open."""
        ...


@runtime_checkable
class RangeSource(Source, Protocol):
    """A source that gives any part of a file."""

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading at `start`, up to `end` (not included; None: to the end).

        Raises:
            SourceChanged: the file is another by now, or parts are not to be had after all.
            AccessDenied, UrlNotAllowed, InputFailed: as `stat`.
        """
        ...


@runtime_checkable
class FileSource(Source, Protocol):
    """A source that brings whole files by its own means."""

    async def bring(self, remote: Remote, part: Path, tell: Callable[[int], None]) -> int:
        """Make `part` the file: a link to it or a copy. `part` does not exist before.

        Args:
            tell: called with the bytes that are here so far, from any thread.

        Returns:
            How many bytes are from a cache: where they are no good, the file is asked for again,
            past the cache (`stat` without parts).

        Raises:
            As `stat`.
        """
        ...


@runtime_checkable
class Admitting(Protocol):
    """A source that can refuse a URL before anything is asked of where it leads."""

    async def admit(self, url: str) -> None:
        """Let a URL through, or refuse it.

        Raises:
            UrlNotAllowed: the address policy refuses the URL's host.
            InputFailed: the URL is malformed, or names nothing that may be taken.
        """
        ...
