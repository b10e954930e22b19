"""The port to where state is kept: named bytes that are written on a condition.

Keys are `/`-separated parts of `[a-z0-9_.-]`; each is of one kind for good:

    record    created when absent, replaced by whoever knows its version
    mark      plain and small, the last writer wins; its name may say it all
    file      an output of any size

Everything blocks: call it in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read.

    Attributes:
        version: opaque; goes back with `replace`.
    """

    body: bytes = field(repr=False)
    version: str


class Blobs(Protocol):
    """Where state is kept. Every method may raise StateUnavailable: the place does not answer."""

    def open(self) -> None:
        """Make sure that the place is there and keeps conditions.

        Raises:
            StateUnavailable: it is not, or does not; the text says which.
        """
        ...

    def renew(self) -> None:
        """Use no connection again that there is; never blocks."""
        ...

    def create(self, key: str, body: bytes) -> bool:
        """Write a record that is not there yet; of many at once, one is told True."""
        ...

    def read(self, key: str) -> Found | None:
        """Read a record or a mark; None where there is none."""
        ...

    def replace(self, key: str, body: bytes, version: str) -> bool:
        """Write a record anew if it still has this version; of many at once, one is told True."""
        ...

    def mark(self, key: str, body: bytes = b"") -> None:
        """Write a mark."""
        ...

    def names(self, prefix: str, after: str = "", most: int = 1000) -> list[str]:
        """List the keys of marks in order.

        Args:
            prefix: a folder, with its slash.
            after: the key that the list begins after; it need not exist.
        """
        ...

    def keep(self, key: str, path: Path) -> None:
        """Take a copy of a file. The file may be linked: it must not be written to any more."""
        ...

    def open_file(self, key: str, first: int = 0, last: int | None = None) -> BinaryIO | None:
        """Open a kept file for reading; close it.

        Args:
            first, last: positions of the first and the last byte; those asked for must exist.
        """
        ...

    def remove(self, key: str) -> None:
        """Remove whatever is there."""
        ...

    def sweep(self, now: float) -> None:
        """Remove what a crash has left behind."""
        ...
