"""Sizes and counts as people write them."""

from __future__ import annotations

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def size_text(count: int) -> str:
    """Write a number of bytes with three digits, in the unit that fits: 999 B, 1.50 MB, 23.4 GB."""
    for unit, scale in _UNITS:
        if count >= scale:
            value = count / scale
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count} B"


def counted(count: int, what: str) -> str:
    """Write a number of things: 1 file, 2 files."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
