"""The W3C's `traceparent`: read, made, passed on. See https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace

_FIELDS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Trace:
    """One span of a trace.

    Attributes:
        trace_id: 32 hex digits, not all zero.
        span_id: 16 hex digits, not all zero.
        sampled: whether whoever began the trace records it.
        parent_id: the span above this one; "" where it is the first.
    """

    trace_id: str
    span_id: str
    sampled: bool = True
    parent_id: str = ""

    def child(self) -> Trace:
        """Begin a span below this one."""
        return replace(self, span_id=_drawn(8), parent_id=self.span_id)

    @property
    def header(self) -> str:
        """What is passed on as `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"


def begin_trace(traceparent: str = "", *, sampled: bool = True) -> Trace:
    """Begin a span below the caller's, or a trace of our own where that cannot be read.

    Args:
        traceparent: the caller's header; "" for none.
        sampled: whether a trace of our own is recorded; the caller's says so itself.
    """
    theirs = parse_traceparent(traceparent)
    return theirs.child() if theirs else Trace(_drawn(16), _drawn(8), sampled)


def parse_traceparent(text: str) -> Trace | None:
    """Read a header; None for one that is not as the standard has it.

    Of a version that is not known yet, the fields of version 00 are read, as the standard asks.
    """
    found = _FIELDS.fullmatch(text.strip(" \t")) if len(text) <= _LONGEST else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def _drawn(count: int) -> str:
    while not any(drawn := secrets.token_bytes(count)):
        continue
    return drawn.hex()
