"""What came of the webhooks of jobs, as `GET /jobs/{id}` tells it: of jobs and of their records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.state.records import JobRecord

if TYPE_CHECKING:
    from handler.job import Job, JobBoard
    from handler.outbox.records import Delivery

Notes = dict[str, dict[str, Any]]
"""By the request's keys, `webhook` and `webhook_v2`."""
Note = Callable[[str, str, Callable[[JobRecord], JobRecord]], None]

LEGACY, V2 = "webhook", "webhook_v2"
POSTED = "posted"
PENDING = "pending"
DELIVERED = "delivered"
NOTHING = "nothing to tell"
_GIVEN_UP = "given up: "
_LOST = "lost: "


def lost(code: str) -> str:
    """Say that a post could not even be put into the outbox."""
    return f"{_LOST}{code}"


def awaited(keys: Iterable[str]) -> Notes:
    """Give the notes of a job that is under way."""
    return {key: {"status": PENDING, "tries": 0} for key in keys}


def settled(notes: Mapping[str, Any], told: Mapping[str, str], posts: int) -> Notes:
    """Give the notes of a job whose end is in the outbox; some of it may have arrived by now.

    Args:
        told: by key: `posted`, or `lost: <code>`. A key that is not there tells nothing.
        posts: how many there are at `webhook`.
    """
    fresh: Notes = {}
    for key, outcome in told.items():
        entry = {"status": PENDING, "tries": 0, **notes.get(key, {})}
        if outcome != POSTED:
            entry["status"] = outcome
        elif key == LEGACY:
            entry["posts"] = posts
            if not posts:
                entry["status"] = NOTHING
            elif not entry.get("given_up"):
                entry["status"] = DELIVERED if _all_arrived(entry, posts) else PENDING
        fresh[key] = entry
    return fresh


def noted(notes: Mapping[str, Any], delivery: Delivery, *, most: int = 1) -> Notes:
    """Give the notes after a try; the same try noted twice is noted once.

    Of several posts at `webhook`, one that was given up decides, until it is sent again.

    Args:
        most: how many posts there are at `webhook` where the notes do not say so.
    """
    letter = delivery.letter
    key = V2 if letter.signed else LEGACY
    entry = {"status": PENDING, **notes.get(key, {}), "tries": letter.tries}
    if entry["status"].startswith(_LOST):  # this one tells that it was
        return dict(notes)
    if delivery.outcome != "again":
        delivered = delivery.outcome == "delivered"
        if key == LEGACY:
            _number(entry, letter.message_id, delivered)
        whole = _all_arrived(entry, most) if key == LEGACY else delivered
        if whole:
            entry["status"] = DELIVERED
        elif not delivered:
            entry["status"] = f"{_GIVEN_UP}{letter.said}"
        elif not entry.get("given_up"):
            entry["status"] = PENDING
    return {**notes, key: entry}


def _number(entry: dict[str, Any], message_id: str, delivered: bool) -> None:
    """Note the end of one of several posts."""
    number = int(message_id.rpartition("-")[2])
    ends = {name: set(entry.get(name, ())) - {number} for name in ("delivered", "given_up")}
    ends["delivered" if delivered else "given_up"].add(number)
    entry |= {name: sorted(numbers) for name, numbers in ends.items()}


def _all_arrived(entry: Mapping[str, Any], posts: int) -> bool:
    """Tell whether all of several posts have."""
    arrived = entry.get("delivered", ())
    return not entry.get("given_up") and len(arrived) >= entry.get("posts", posts)


class WebhookNotes:
    """Notes what comes of tries, where their jobs are remembered.

    Args:
        jobs: of this process.
        note: has the record of a run changed, by its id and uid, even one that is over; it must
            not wait.
    """

    def __init__(self, jobs: JobBoard, note: Note) -> None:
        self._jobs = jobs
        self._note = note

    def __repr__(self) -> str:
        return f"<WebhookNotes of {self._jobs!r}>"

    def take(self, delivery: Delivery) -> None:
        """Note one; called in the event loop, and done at once."""
        letter = delivery.letter
        uid = letter.order_key
        job = self._jobs.by_uid(uid)
        if job is not None:
            # Until all is posted, nobody knows how many there are.
            job.webhooks = noted(job.webhooks, delivery, most=sys.maxsize)
        if delivery.outcome == "again" or not uid:
            return
        if job is None:
            self._note(letter.job_id, uid, partial(_record_noted, delivery))
        elif job.phase.final:
            self._note(job.id, uid, partial(_as_in, job))


def _as_in(job: Job, record: JobRecord) -> JobRecord:
    return replace(record, webhooks=job.webhooks)


def _record_noted(delivery: Delivery, record: JobRecord) -> JobRecord:
    return replace(record, webhooks=noted(record.webhooks, delivery))
