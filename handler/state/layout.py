"""The names of what is kept for jobs. Pure.

jobs/<xx>/<hash of id>              the record
keys/<xx>/<hash of key>             who has claimed an idempotency key
active/<instance>/<hash of id>      marks a job that is not over
recent/<tttttt>/<time>-<hash>       marks when a job came, the newest first
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.state.records import JobRecord

_LAST_MS = 10**13 - 1
_CURSOR = re.compile(r"\d{13}-[\da-f]{32}")


def hashed(text: str) -> str:
    """Give what stands for a caller's text in a key."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


def job_key(job_id: str) -> str:
    """Name the record of an id."""
    return f"jobs/{hashed(job_id)[:2]}/{hashed(job_id)}"


def job_of(mark: str) -> str:
    """Name the record that a mark stands for."""
    return f"jobs/{mark[-32:-30]}/{mark[-32:]}"


def key_key(key: str) -> str:
    """Name the claim of an idempotency key."""
    return f"keys/{hashed(key)[:2]}/{hashed(key)}"


def active_key(record: JobRecord) -> str:
    """Name the mark of a run that is not over."""
    return f"active/{record.instance}/{hashed(record.id)}"


def stamp(at: float) -> str:
    """Write a time so that later ones sort before earlier ones."""
    return f"{max(0, _LAST_MS - round(at * 1000)):013d}"


def recent_key(record: JobRecord) -> str:
    """Name the mark of when a run came."""
    at = stamp(record.created)
    return f"recent/{at[:6]}/{at}-{hashed(record.id)}"


def cursor(key: str) -> str:
    """Give what a page ends with, of the last mark on it."""
    return key.rpartition("/")[2]


def recent_after(told: str) -> str:
    """Name the mark that the next page begins after.

    Raises:
        ValueError: the cursor is none of ours.
    """
    if not _CURSOR.fullmatch(told):
        raise ValueError("no cursor of ours")
    return f"recent/{told[:6]}/{told}"
