"""Which bytes of a file are there. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Span = tuple[int, int]
"""First byte, and the one after the last."""


class Spans:
    """A set of bytes, kept as runs that neither touch nor overlap, in order."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def __repr__(self) -> str:
        return f"<Spans {self.as_list()}>"

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` up to `end`, not included."""
        if end <= start:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def as_list(self) -> list[Span]:
        """Give the runs in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def covered(self) -> int:
        """Count the bytes."""
        return sum(self._ends) - sum(self._starts)

    def prefix(self) -> int:
        """Give how many bytes are there from the file's first on, without a hole."""
        return self._ends[0] if self._starts[:1] == [0] else 0

    def missing(self, size: int) -> list[Span]:
        """Give the runs that a file of `size` bytes lacks, in order."""
        holes: list[Span] = []
        at = 0
        for start, end in self.as_list():
            if start > at:
                holes.append((at, min(start, size)))
            at = max(at, end)
        if at < size:
            holes.append((at, size))
        return [(start, end) for start, end in holes if start < end]


def pieces(holes: Iterable[Span], longest: int) -> list[Span]:
    """Cut runs into pieces of at most `longest` bytes."""
    return [
        (at, min(at + longest, end)) for start, end in holes for at in range(start, end, longest)
    ]
