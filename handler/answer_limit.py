"""Callers whose connection is cut after a time by what is in front of us: told in advance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.errors import AnswerTooLate, HandlerError, QueueFull, TooLongToAnswer

if TYPE_CHECKING:
    from handler.run_times import Estimate

_OTHERWISE = (
    "name a `webhook_v2` or an upload, send `Prefer: respond-async` and ask for the job later, "
    "or send it through the platform's queue"
)


def refusal_of(expected: Estimate, limit_s: float) -> HandlerError | None:
    """Tell why a run is not begun: its answer would come too late, as far as is known. Pure.

    Args:
        limit_s: when the connection is cut; 0 for never.
    """
    if not limit_s or expected.total_s <= limit_s:
        return None
    if expected.run_s is not None and expected.run_s > limit_s:
        return TooLongToAnswer(
            f"runs of this graph take {expected.run_s:.3g} s, and the connection is cut after "
            f"{limit_s:.3g} s",
            hint=_OTHERWISE,
            details={"run_s": round(expected.run_s, 1), "limit_s": limit_s},
        )
    return QueueFull(
        f"{expected.before_s:.3g} s of work are before this, and the connection is cut after "
        f"{limit_s:.3g} s",
        hint=f"try again later or add workers; or do not wait: {_OTHERWISE}",
        retry_after_s=expected.total_s - limit_s,
    )


def too_late(limit_s: float, *, goes_on: bool) -> AnswerTooLate:
    """Make the error of an answer that is not there when the connection is about to be cut. Pure.

    Args:
        goes_on: the caller has a key, and can come again; else nobody could have the result.
    """
    what = "the job goes on" if goes_on else "the job is cancelled"
    return AnswerTooLate(
        f"the connection is cut after {limit_s:.3g} s: {what}",
        hint="send it again with the same Idempotency-Key" if goes_on else _OTHERWISE,
        retryable=goes_on,
    )
