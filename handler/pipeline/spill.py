"""Results that an answer cannot hold: to the operator's storage, or refused with a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.errors import InvalidPayload, ResultTooLarge, UploadFailed, UrlNotAllowed
from handler.pipeline.uploads import upload_teller, with_urls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handler.job import Job
    from handler.pipeline.stages import Parts
    from handler.records import Output
    from handler.settings import Settings
    from handler.targets import Target

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def ceiling(job: Job, settings: Settings) -> int:
    """Give the most bytes that a job's answer may hold; 0 for any.

    It is the smaller of the operator's and the platform's. An asynchronous job has none: its
    result goes to a receiver of the caller's own.
    """
    if job.asynchronous:
        return 0
    return min(filter(None, (job.inline_bytes, settings.inline_max_mb << 20)), default=0)


async def spilled(
    outputs: Sequence[Output], job: Job, parts: Parts, size: int, limit: int
) -> list[Output]:
    """Bring outputs to OUTPUT_STORAGE, and give them with their URLs.

    Args:
        size, limit: bytes of the answer with the outputs inside, and those it may have.

    Raises:
        ResultTooLarge: there is no such storage.
        UploadFailed: it did not take them.
    """
    storage = parts.providers.storage
    if storage is None:
        raise _too_large(outputs, parts, size, limit)
    target, providers = _of_job(storage, job), parts.providers.operators()
    try:
        await providers.check([target])
        async with providers.delivery(
            [target], job.id, on_progress=upload_teller(job), metrics=parts.metrics
        ) as delivery:
            return with_urls(outputs, await delivery.finish(outputs))
    except (InvalidPayload, UrlNotAllowed) as fault:
        from handler.delivery.base import with_kept

        raise UploadFailed(
            f"OUTPUT_STORAGE: {fault.message}",
            location=fault.location,
            hint=with_kept(fault.hint, job.id, int(parts.settings.output_retention_s)),
            retryable=False,
        ) from fault
    except UploadFailed as fault:
        # Not the caller's place and keys, though the target names them.
        fault.blame = "platform"
        fault.message = f"OUTPUT_STORAGE: {fault.message}"
        fault.args = (fault.message,)
        raise


def _of_job(storage: Target, job: Job) -> Target:
    """Keep jobs apart where the operator does not say how: an id may come again."""
    if storage.key_template is not None:
        return storage
    return storage.model_copy(update={"key_template": f"{{prefix}}{job.uid}-{{filename}}"})


def _too_large(outputs: Sequence[Output], parts: Parts, size: int, limit: int) -> ResultTooLarge:
    files = [{"filename": o.filename, "bytes": o.bytes} for o in outputs if o.path is not None]
    remedies = [
        "name a storage of yours in the request (s3, azure_blob_upload, http_upload, ...)",
        "ask for a smaller format with convert_output",
        "the operator sets OUTPUT_STORAGE",
    ]
    if parts.settings.output_retention_s > 0:
        remedies.append("fetch the kept outputs at /jobs/{id}/outputs/{name}")
    return ResultTooLarge(
        f"the answer would have {in_words(size)}, and may have {in_words(limit)} here",
        hint="; or ".join(remedies),
        details={"bytes": size, "limit": limit, "outputs": files},
    )


def in_words(size: float) -> str:
    """Give a number of bytes for people: `25.0 MiB`."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:g} {_UNITS[0]}"
