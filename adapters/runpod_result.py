"""What a job's end is on RunPod: an answer or an error that its SDK posts whole, or nothing at all.

What `json.dumps` cannot encode, the SDK posts nothing of, and the job hangs until it times out; so
all that is given back was read from JSON. The keys `error` and `refresh_worker` of what is given
back are the SDK's own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from handler.errors import HandlerError, InternalFault, ResultTooLarge

if TYPE_CHECKING:
    from handler.wire import Answer

log = logging.getLogger("comfyfn.runpod")

# RunPod takes 10 MB from a job of /run and 20 MB from one of /runsync. The SDK writes JSON with
# blanks and wraps it: a twentieth is left for that.
ASYNC_BYTES = 9_500_000
SYNC_BYTES = 19_000_000
CHUNK_BYTES = 950_000
"""Of one item of a stream, which may have 1 MB."""

_RESERVED = ("error", "refresh_worker")


def ceiling(job_id: str) -> int:
    """Give the most bytes that the answer of a job may have; sync ids begin with `sync-`."""
    return SYNC_BYTES if job_id.startswith("sync-") else ASYNC_BYTES


def unreserved(answer: dict[str, Any]) -> dict[str, Any]:
    """Give an answer whose keys are not the SDK's: `error` becomes `error_`."""
    if not any(key in answer for key in _RESERVED):
        return answer
    return {f"{key}_" if key in _RESERVED else key: value for key, value in answer.items()}


def check_size(answer: Answer, limit: int) -> None:
    """Refuse an answer that RunPod would not take, as one from the shared state may be.

    Raises:
        ResultTooLarge: it is over the limit.
    """
    size = answer.content_length()
    if size > limit:
        raise ResultTooLarge(
            f"the answer would have {size} bytes, and may have {limit} here",
            hint="name a storage in the request (s3, ...); or the operator sets OUTPUT_STORAGE",
            details={"bytes": size, "limit": limit},
        )


def failure(error: BaseException) -> dict[str, Any]:
    """Give the envelope of whatever went wrong, JSON and nothing else; never a traceback."""
    if not isinstance(error, HandlerError):
        log.error("a fault of ours", exc_info=error)
        error = InternalFault.of(error) if isinstance(error, Exception) else InternalFault("ended")
    envelope = error.envelope()
    try:
        told: dict[str, Any] = orjson.loads(orjson.dumps(envelope, default=str))
    except (TypeError, ValueError):  # lone surrogates, keys that are no texts
        bare = {key: value for key, value in envelope.items() if key not in ("details", "stats")}
        told = {key: _plain(value) for key, value in bare.items()}
    # An empty one would count as a success.
    told["error"] = told["error"] or told["code"]
    return told


def breaks_worker(envelope: dict[str, Any]) -> bool:
    """Tell whether no job can be expected to end well here: the GPU's context is broken."""
    details = envelope.get("details")
    return isinstance(details, dict) and details.get("cause") == "gpu_fault"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode(errors="replace").decode()
