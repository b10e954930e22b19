"""A job as RunPod hands it out, and what the handler takes of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapters.calls import Call, read_call
from adapters.runpod_result import CHUNK_BYTES, ceiling
from adapters.runpod_storage import with_s3_config
from handler.submission import Submission

if TYPE_CHECKING:
    from handler.settings import Settings

# Every local run of the SDK has this id.
LOCAL_ID = "local_test"
DRIFT_S = 3.0
_MOST_MARGIN_S = 5.0
_MARGIN = 0.05
_TICK_S = 1.0
_MOST_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Given:
    """A job, read.

    Attributes:
        submission: what the handler is told with it.
        limit: the most bytes of its answer.
    """

    call: Call
    submission: Submission
    limit: int


def read_job(job: dict[str, Any], settings: Settings, *, stored: bool, streams: bool) -> Given:
    """Read a job.

    Args:
        stored: whether there is a storage for what an answer cannot hold.
        streams: whether outputs are given one by one.

    Raises:
        InvalidPayload: its input, or its `s3Config`, is none.
    """
    job_id = str(job.get("id") or "")
    keyed = job_id not in ("", LOCAL_ID)
    call = read_call(job.get("input"), comfy_org_key=settings.comfy_org_key)
    if isinstance(call.payload, dict):
        payload = with_s3_config(call.payload, job.get("s3Config"))
        payload = _with_deadline(payload, job.get("policy"))
        if keyed and payload.get("id") is None:  # what RunPod calls it is what its log says
            payload = {**payload, "id": job_id}
        call = replace(call, payload=payload)
    limit = ceiling(job_id)
    if streams:  # what no item can hold is stored, or told without its bytes
        limit = CHUNK_BYTES if stored else 0
    elif call.worker_comfyui and settings.bucket_endpoint:
        limit = 1  # as worker-comfyui: with a bucket all is there
    submission = Submission(
        adapter="runpod",
        key=f"runpod:{job_id}" if keyed else None,
        waits=True,
        inline_bytes=limit,
        retries=True,  # a failed job comes again by /retry alone
    )
    return Given(call, submission, ceiling(job_id))


def _with_deadline(payload: dict[str, Any], policy: Any) -> dict[str, Any]:
    """End the job before RunPod does, so that its caller is told why; the smaller limit wins."""
    timeout_ms = policy.get("executionTimeout") if isinstance(policy, dict) else None
    own = payload.get("timeouts")
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float):
        return payload
    if not 1 <= timeout_ms <= _MOST_MS:  # RunPod would not have taken it
        return payload
    if not (own is None or isinstance(own, dict)):
        return payload
    limit_s = timeout_ms / 1000
    limit_s -= min(_MOST_MARGIN_S, limit_s * _MARGIN)
    asked = (own or {}).get("total_s")
    longer = isinstance(asked, int | float) and not isinstance(asked, bool) and asked > limit_s
    if asked is not None and not longer:  # shorter, or at fault, which the handler tells
        return payload
    return {**payload, "timeouts": {**(own or {}), "total_s": round(limit_s, 3)}}


class Clocks:
    """Sees that the process was frozen and thawed.

    The clock on the wall went on and ours did not, or what was to be done every second was not.
    """

    def __init__(self) -> None:
        self._apart = _apart()
        self._stood_still = False

    async def tick(self) -> None:
        """Note every second that time goes on; runs until it is cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK_S)
            if time.monotonic() - before > _TICK_S + DRIFT_S:
                self._stood_still = True

    def jumped(self) -> bool:
        """Tell whether it was frozen since the last look."""
        before, self._apart = self._apart, _apart()
        stood_still, self._stood_still = self._stood_still, False
        return stood_still or abs(self._apart - before) > DRIFT_S


def _apart() -> float:
    return time.time() - time.monotonic()
