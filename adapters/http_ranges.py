"""`Range`, `If-Range` and `If-None-Match` as RFC 9110 has them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from handler.errors import RangeNotSatisfiable

_ONE = re.compile(r"bytes[ \t]*=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE | re.ASCII)
_TAG = re.compile(r'(?:W/)?("[^"]*")')
_LONGEST = 18  # digits; Python refuses to read thousands


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: positions of its first and its last byte."""

    first: int
    last: int

    @property
    def bytes(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


def wanted_span(header: str, size: int) -> Span | None:
    """Read a `Range` header.

    Args:
        header: its value; "" for none.
        size: bytes of the whole.

    Returns:
        None where the whole is to be sent: nothing is asked for, or several parts, or what cannot
        be read, which the standard says to pass over.

    Raises:
        RangeNotSatisfiable: there is nothing at that place.
    """
    found = _ONE.fullmatch(header.strip())
    if found is None or not any(found.groups()):
        return None
    first, last = (_number(text) for text in found.groups())
    if first is None:
        assert last is not None
        if last and not size:
            return None
        span = Span(max(0, size - last), size - 1)
    elif last is not None and last < first:
        return None
    else:
        span = Span(first, size - 1 if last is None else min(last, size - 1))
    if span.bytes <= 0:
        raise RangeNotSatisfiable(f"the output has {size} bytes", details={"bytes": size})
    return span


def range_holds(if_range: str | None, etag: str) -> bool:
    """Tell whether a `Range` counts: the client has parts of this very file, or does not say."""
    return if_range is None or if_range.strip() == etag


def unchanged(if_none_match: str, etag: str) -> bool:
    """Tell whether the client has this very file already."""
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)


def _number(text: str) -> int | None:
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LONGEST else 10**_LONGEST
