"""Several outputs as one ZIP file, made while it is sent.

Nothing is compressed: pictures and videos are already, and the length is known before. The
format is the standard library's: `zipfile` writes to what cannot be rewound, and what it has
written so far is taken away and sent on.
"""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BLOCK_BYTES = 1 << 18
_PLAIN_BYTES = 1_900_000_000
"""Below it, no part of a ZIP needs its 64-bit form, whose length depends on where it lies."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive.

    Attributes:
        name: unique, no folder in it.
        bytes: its size, which must be right.
        modified: Unix seconds.
        open: opens it for reading; blocking.
    """

    name: str
    bytes: int
    modified: float
    open: Callable[[], BinaryIO]


class _Sink:
    """What zipfile writes to: cannot be rewound."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self.total = 0

    def write(self, block: bytes) -> int:
        self._pending.append(bytes(block))
        self.total += len(block)
        return len(block)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> bytes:
        taken = b"".join(self._pending)
        self._pending.clear()
        return taken


def zip_length(entries: Sequence[Entry]) -> int | None:
    """Count the bytes of the archive; None where it is so large that nobody knows before."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for entry in entries:
            archive.open(_info(entry), "w").close()
            sink.take()
    length = sink.total + sum(entry.bytes for entry in entries)
    return length if length < _PLAIN_BYTES else None


def zip_blocks(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Make the archive. Blocking: take each block in a thread.

    Raises:
        OSError: a file is not as long as it was, or cannot be read. What was sent so far is no
            archive, and the caller must see that it broke off.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for entry in entries:
            left = entry.bytes
            with entry.open() as source, archive.open(_info(entry), "w") as target:
                while left > 0:
                    block = source.read(min(BLOCK_BYTES, left))
                    if not block:
                        raise OSError(f"{entry.name} is shorter than it was")
                    left -= len(block)
                    target.write(block)
                    yield sink.take()
    yield sink.take()


def _info(entry: Entry) -> zipfile.ZipInfo:
    date = time.gmtime(max(entry.modified, 315532800))[:6]  # ZIP's time begins in 1980
    info = zipfile.ZipInfo(entry.name, date)
    info.file_size = entry.bytes  # by which the 64-bit form is chosen
    info.external_attr = 0o644 << 16
    return info
