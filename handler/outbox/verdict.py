"""What a try's end means for a letter: it is done with, tried again later, or dead. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.outbox.records import Outcome, Posted, Terms

_PASSING = frozenset({408, 425, 429})
_GONE = 410


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one try.

    Attributes:
        status: the HTTP status; None where no answer came.
        said: in words, without anything secret.
        retry_after: that header, as sent.
        hopeless: no further try can do better.
    """

    status: int | None
    said: str
    retry_after: str = ""
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done.

    Attributes:
        letter: with the try counted in.
        wait_s: until the next try, for `again`.
        final: for `dead`: no matter how many tries are left.
        asked: the receiver asked for that wait.
    """

    outcome: Outcome
    letter: Posted
    wait_s: float = 0.0
    final: bool = False
    asked: bool = False


def judge(letter: Posted, reply: Reply, terms: Terms, now: float, dice: float) -> Verdict:
    """Decide.

    Args:
        letter: as before the try.
        now: epoch seconds.
        dice: from 0 to 1, spreads the waits so that letters do not come back all at once.
    """
    refused = _refused(reply.status)
    letter = replace(
        letter,
        tries=letter.tries + 1,
        refusals=letter.refusals + refused,
        said=reply.said,
    )
    if reply.status is not None and 200 <= reply.status < 300:
        return Verdict("delivered", letter)
    left_s = letter.since + terms.max_age_s - now
    spent = terms.retries is not None and letter.tries > terms.retries
    final = reply.hopeless or reply.status == _GONE
    if final or letter.refusals > 1 or spent or left_s <= 0:
        return Verdict("dead", replace(letter, dead=True), final=final)
    wait = min(terms.first_wait_s * 2.0 ** min(letter.tries - 1, 60), terms.longest_wait_s)
    wait *= 0.75 + dice / 2
    if refused:
        wait = max(wait, terms.refusal_wait_s)
    asked = retry_after_s(reply.retry_after, now)
    if asked is not None:
        wait = max(wait, min(asked, terms.longest_retry_after_s) * (1 + dice / 10))
    # The last try is at the end of its time, not after it.
    return Verdict("again", letter, min(wait, left_s), asked=asked is not None)


def _refused(status: int | None) -> bool:
    """Tell whether the receiver is there and will not have it; a redirect is as good as that."""
    return status is not None and 300 <= status < 500 and status not in _PASSING


def retry_after_s(header: str, now: float) -> float | None:
    """Read Retry-After, in seconds or as a date; None where it is neither."""
    header = header.strip()
    if header.isascii() and header.isdecimal():
        return float(header[:9])
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, TypeError, IndexError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(now, UTC)).total_seconds())
