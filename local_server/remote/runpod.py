"""A queue-based endpoint of RunPod: `/run`, then `/status` until it is over.

A job whose `/run` was not answered is not sent again: RunPod has no key that would make it one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from handler.errors import JobCancelled, PayloadTooLarge, ResultGone, TimedOut
from local_server.remote.base import Pace, named, stoppable, told_by
from local_server.remote.faults import Truncated, failure_of, json_of
from local_server.remote.result import Result, result_of

if TYPE_CHECKING:
    from local_server.remote.base import Teller
    from local_server.remote.link import Link

MOST_BYTES = 10_000_000
"""What `/run` takes."""
_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
_SAID = {"IN_QUEUE": "in the queue (a worker may have to boot)", "IN_PROGRESS": "running"}


class RunpodRemote:
    """An endpoint.

    Args:
        link: to `https://api.runpod.ai/v2/ENDPOINT`, with the key.
        pace: between two questions.
    """

    def __init__(self, link: Link, pace: Pace | None = None) -> None:
        self._link = link
        self._pace = pace or Pace()

    async def close(self) -> None:
        """Let go of connections."""
        await self._link.close()

    async def run(self, payload: dict[str, Any], teller: Teller) -> Result:
        """Run a payload there; see `Remote`."""
        payload, _ = named(payload)
        body = orjson.dumps({"input": payload})
        if len(body) > MOST_BYTES:
            raise PayloadTooLarge(
                f"the job has {len(body) / 1e6:.1f} MB; RunPod takes {MOST_BYTES / 1e6:.0f} MB",
                hint="give large media by URL: -i NODE.INPUT=https://...",
            )
        return await stoppable(
            self._submit(body, teller),
            partial(self._followed, teller),
            self._cancel,
            quit_=self._link.quit,
        )

    async def _submit(self, body: bytes, teller: Teller) -> str:
        headers = {"Content-Type": "application/json"}
        teller.say("is sent")
        response = await self._link.send(
            "POST", "/run", content=body, headers=headers, again=False, teller=teller
        )
        told = json_of(response)
        job_id = told.get("id") if isinstance(told, dict) else None
        if not isinstance(job_id, str):
            raise Truncated("RunPod's answer to /run names no job")
        return quote(job_id, safe="")

    async def _followed(self, teller: Teller, job_id: str) -> Result:
        chunks: list[Any] = []
        while True:
            told = await self._status(job_id, teller)
            status = told.get("status")
            if status in _FINAL:
                break
            teller.say(_SAID.get(str(status), str(status).lower()))
            told_by(told.get("output"), teller)
            await self._pace.wait((status, told.get("output")))
        if status == "COMPLETED" and told.get("output") in ([], None):
            chunks = await self._streamed(job_id, teller)  # an endpoint that streams
        elif status == "FAILED" and not isinstance(told.get("output"), dict):
            told["output"] = _envelope(await self._streamed(job_id, teller))
        return _result(told, chunks)

    async def _status(self, job_id: str, teller: Teller) -> dict[str, Any]:
        response = await self._link.send("GET", f"/status/{job_id}", teller=teller)
        told = json_of(response)
        if not isinstance(told, dict):
            raise Truncated("RunPod's answer to /status is no object")
        return told

    async def _streamed(self, job_id: str, teller: Teller) -> list[Any]:
        """Give what the job yielded; each chunk is given once."""
        chunks: list[Any] = []
        while True:
            response = await self._link.send("GET", f"/stream/{job_id}", teller=teller)
            told = json_of(response)
            items = told.get("stream") if isinstance(told, dict) else None
            if not items:
                return chunks
            chunks += [one.get("output") for one in items if isinstance(one, dict)]

    async def _cancel(self, job_id: str) -> None:
        await self._link.send("POST", f"/cancel/{job_id}")


def _envelope(chunks: list[Any]) -> dict[str, Any] | None:
    """Find the envelope of a job that failed while it streamed: of it `/status` has the text."""
    failed = [one for one in chunks if isinstance(one, dict) and one.get("type") == "failed"]
    return {k: v for k, v in failed[-1].items() if k != "type"} if failed else None


def _result(told: dict[str, Any], chunks: list[Any]) -> Result:
    """Read the end of a job.

    Raises:
        HandlerError: it did not succeed.
    """
    status, output, error = told.get("status"), told.get("output"), told.get("error")
    if status == "CANCELLED":
        raise JobCancelled("the job was cancelled at RunPod")
    if status == "TIMED_OUT":
        raise TimedOut(
            "RunPod ended the job: its execution timeout, or its time to live, is over",
            hint="the endpoint's settings have both; policy.executionTimeout sets it for a job",
        )
    if status == "FAILED" or error:
        # The SDK moves `error` beside the rest of the envelope.
        raise failure_of({**(output if isinstance(output, dict) else {}), "error": error})
    if output in ([], None) and not chunks:
        raise ResultGone(
            "the job is over, and its result is not kept any more",
            hint="RunPod keeps it for half an hour",
        )
    return result_of(chunks or output)
