"""A job queue of SaladCloud: a job is created, asked for until it is over, deleted where it waits.

By plain HTTP and not by Salad's SDK: that repeats a POST after a 5xx, which may make two jobs of
one, and blocks, so that Ctrl-C would come too late. Here a job is known by its metadata: after a
broken connection the queue is looked through before it is created again.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from handler.errors import HandlerError, JobCancelled, PayloadTooLarge
from local_server.remote.base import Pace, named, stoppable
from local_server.remote.faults import Truncated, Unreachable, failure_of, json_of
from local_server.remote.result import Result, result_of

if TYPE_CHECKING:
    from local_server.remote.base import Teller
    from local_server.remote.link import Link

MOST_BYTES = 10_000_000
"""What the queue brings to a worker."""
MOST_CREATIONS = 3
_MARK = "comfyfn_run"
_PAGE = 100
_SAID = {"pending": "in the queue (a worker may have to boot)", "running": "running"}


class SaladRemote:
    """A queue.

    Args:
        link: to its URL, `.../organizations/O/projects/P/queues/Q`, with the key.
        pace: between two questions.
    """

    def __init__(self, link: Link, pace: Pace | None = None) -> None:
        self._link = link
        self._pace = pace or Pace(0.5, 5.0)

    async def close(self) -> None:
        """Let go of connections."""
        await self._link.close()

    async def run(self, payload: dict[str, Any], teller: Teller) -> Result:
        """Run a payload there; see `Remote`."""
        payload, _ = named(payload)
        size = len(orjson.dumps(payload))
        if size > MOST_BYTES:
            raise PayloadTooLarge(
                f"the job has {size / 1e6:.1f} MB; a queue of Salad takes {MOST_BYTES / 1e6:.0f}",
                hint="give large media by URL: -i NODE.INPUT=https://...",
            )
        return await stoppable(
            self._create(payload, teller),
            partial(self._followed, teller),
            self._delete,
            quit_=self._link.quit,
        )

    async def _create(self, payload: dict[str, Any], teller: Teller) -> str:
        mark = uuid.uuid4().hex
        body = {"input": payload, "metadata": {_MARK: mark}}
        teller.say("is sent")
        for tries_left in reversed(range(MOST_CREATIONS)):
            try:
                response = await self._link.send(
                    "POST", "/jobs", json=body, again=False, teller=teller
                )
            except HandlerError as fault:
                unclear = isinstance(fault, Unreachable) or fault.status in {500, 502, 504}
                if not unclear:
                    raise
                found = await self._marked(mark)
                if found is not None:
                    return found
                if not tries_left:
                    raise
                continue
            return _job_id(json_of(response))
        raise Truncated("the job could not be created")

    async def _marked(self, mark: str) -> str | None:
        """Find the job among the newest that may have been created after all."""
        response = await self._link.send("GET", f"/jobs?page=1&page_size={_PAGE}")
        told = json_of(response)
        items = told.get("items") if isinstance(told, dict) else None
        for one in items or ():
            if isinstance(one, dict) and (one.get("metadata") or {}).get(_MARK) == mark:
                return _job_id(one)
        return None

    async def _followed(self, teller: Teller, job_id: str) -> Result:
        while True:
            response = await self._link.send("GET", f"/jobs/{job_id}", teller=teller)
            told = json_of(response)
            if not isinstance(told, dict):
                raise Truncated("Salad's answer is no object")
            status = told.get("status")
            if status not in _SAID:
                return _result(told)
            teller.say(_SAID[str(status)] + _tries(told))
            await self._pace.wait((status, len(told.get("events") or ())))

    async def _delete(self, job_id: str) -> None:
        await self._link.send("DELETE", f"/jobs/{job_id}")


def _job_id(told: Any) -> str:
    job_id = told.get("id") if isinstance(told, dict) else None
    if not isinstance(job_id, str):
        raise Truncated("Salad's answer names no job")
    return quote(job_id, safe="")


def _tries(told: dict[str, Any]) -> str:
    """Tell that a job was begun before: its node went away, or its worker asked for another."""
    events = told.get("events")
    events = events if isinstance(events, list) else []
    begun = [one for one in events if isinstance(one, dict) and one.get("action") == "started"]
    return f", try {len(begun)}" if len(begun) > 1 else ""


def _result(told: dict[str, Any]) -> Result:
    """Read the end of a job. One that succeeded with the body of an error failed.

    Salad's worker has every answer of 4xx count as a success, as another try would not help.

    Raises:
        HandlerError: it did not succeed.
    """
    status, output = told.get("status"), told.get("output")
    if status == "cancelled":
        raise JobCancelled("the job was cancelled at Salad")
    failed = isinstance(output, dict) and "error" in output and "images" not in output
    if failed:
        raise failure_of(output)  # type: ignore[arg-type]
    if status != "succeeded":
        raise failure_of(
            {
                "error": f"Salad gave the job up ({status}): no worker could finish it",
                "code": "worker_lost",
                "blame": "platform",
                "retryable": True,
                "hint": "it is tried up to 4 times; the container group's log has the reason",
            }
        )
    return result_of(output)
