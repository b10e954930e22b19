"""How a payload came: what its adapter knows of it, and no schema says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """What goes with a payload.

    Attributes:
        adapter: who took it: `http`, `runpod`, `modal`.
        key: the idempotency key with its scope, `http:<key>` or `runpod:<job id>`; None for none.
        respond_async: the caller does not wait for the result, however the payload reads.
        waits: the caller cannot be answered later: it is told the result whatever was asked.
        inline_bytes: the most that an answer may hold here; 0 for no limit.
        answer_within_s: when the caller's connection is cut, in seconds; 0 for never.
        retries: its key comes again after a failure when another try is wanted, whatever went
            wrong; else a failure for good is told again.
        traceparent: the caller's trace, as the W3C header has it; "" for none.
    """

    adapter: str = "http"
    key: str | None = None
    respond_async: bool = False
    waits: bool = False
    inline_bytes: int = 0
    answer_within_s: float = 0.0
    retries: bool = False
    traceparent: str = ""
