"""What a download is asked with, what it tells on its way, and what it gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from handler.transfer.base import PROBE_BYTES

if TYPE_CHECKING:
    from handler.credentials import Auth

Kind = Literal["model", "file"]
"""A model is looked into: it must be no login page, and a safetensors file must be whole."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch. Equal ones are fetched once when asked for at the same time.

    Attributes:
        target: the final path; nothing is there under this name before the file is whole.
        sha256: of the content, hexadecimal; the source's own is checked where none is given.
        size: in bytes; another one is refused before anything is fetched.
        max_bytes, total_s, tries: as in `Limits`; the downloader's own where None.
        most_untold: the most bytes to take from a source that does not tell the size; None for
            any. Where it tells, `make_room` has the say.
        quiet: nobody is told that it came: who asked moves it on, and tells it if need be.
    """

    url: str = field(repr=False)
    target: Path
    sha256: str | None = None
    size: int | None = None
    auth: Auth | None = field(default=None, repr=False)
    kind: Kind = "model"
    max_bytes: int | None = None
    total_s: float | None = None
    tries: int | None = None
    most_untold: int | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is.

    Attributes:
        done: bytes that are on disk, those of an earlier run included.
        total: bytes of the file; None where the source does not tell.
        bytes_per_s: of the last seconds.
    """

    done: int
    total: int | None
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that is whole and under its final name.

    Attributes:
        sha256: of the content where it was computed, else None.
        seconds: from asking to the end.
        resumed_bytes: how many were there, from an earlier run or in a cache.
        filename_hint: the name the source gives it, no folder in it; "" for none.
        content_type: the media type that the source claims; "" for none.
        etag: what tells its version from others, where the source tells.
    """

    path: Path
    bytes: int
    sha256: str | None
    seconds: float
    resumed_bytes: int
    filename_hint: str = ""
    content_type: str = ""
    etag: str | None = None


OnProgress = Callable[[Progress], None]
OnDone = Callable[[str, Path, int, float], None]
"""Told of a file that has come: its URL, where it is, its bytes, and the seconds that it took."""
MakeRoom = Callable[[Path, int], Awaitable[None]]
"""Told before a download how many bytes it will put below a folder; may free some."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How a downloader goes about it. Times are in seconds, sizes in bytes.

    Attributes:
        connections: at once, over all files.
        per_host: connections to one host at once: slow ones must leave some to others.
        per_file: connections for one file, where its source gives parts.
        min_piece, max_piece: of a part that is asked for at once.
        idle_s: longest silence of a connection; less than `min_rate` over that time is silence.
        total_s: longest time for one file, everything included.
        max_bytes: largest file; None for any.
        tries: of one part without any progress.
        backoff_s: wait before the second try; doubled for each further one.
        spare_disk: what must stay free on the disk.
    """

    connections: int = 16
    per_host: int = 12
    per_file: int = 4
    min_piece: int = PROBE_BYTES
    max_piece: int = 128 << 20
    idle_s: float = 30.0
    min_rate: float = 1024.0
    total_s: float = 6 * 3600.0
    max_bytes: int | None = None
    tries: int = 5
    backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    spare_disk: int = 64 << 20
    tick_s: float = 0.25
