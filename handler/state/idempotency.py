"""What becomes of a job that was sent before. Pure.

sent again               first run                  answer
under the same key       goes on                    joined
succeeded or cancelled     its result
failed for good            its result
failed, may be retried     a new run
no success, tried again    a new run
its worker is gone         a new run
under the same id only   goes on                    joined
is over                    a new run
with another payload     under the key              409
under the id, goes on      409
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.state.records import Claim, JobRecord

CLAIM_GRACE_S = 30.0
"""How long a claim may be without a record: its worker is between the two writes, or dead."""


class Way(enum.Enum):
    """What is done with a job that is sent."""

    RUN = "run"
    """Nobody has done it, or what came of it is worth another try."""
    JOIN = "join"
    """It runs already: the answer is that run's."""
    STORED = "stored"
    """It is over: the answer is what came of it."""
    CONFLICT = "conflict"
    """The same name stands for another payload."""


def by_key(
    claim: Claim,
    record: JobRecord | None,
    digest: str,
    now: float,
    *,
    lost: bool = False,
    servable: bool = True,
    again: bool = False,
) -> Way:
    """Judge a job whose idempotency key another run has.

    Args:
        record: of that run; None where there is none, or another run took its place.
        digest: of the payload that is sent now.
        now: Unix seconds.
        lost: whether the worker that had it is gone.
        servable: whether its outputs can still be had.
        again: whether a key is sent again because another try is wanted: what did not succeed is
            run, whatever went wrong.
    """
    if claim.digest != digest:
        return Way.CONFLICT
    if record is None:
        return Way.JOIN if now - claim.at < CLAIM_GRACE_S else Way.RUN
    if not record.final:
        return Way.RUN if lost else Way.JOIN
    if record.phase == "succeeded":
        return Way.STORED if servable else Way.RUN
    if again or record.retryable:
        return Way.RUN
    return Way.STORED


def by_id(record: JobRecord, digest: str, *, lost: bool = False) -> Way:
    """Judge a job whose id another run has, without a key or with a free one."""
    if record.final or lost:
        return Way.RUN
    return Way.JOIN if record.digest == digest else Way.CONFLICT
