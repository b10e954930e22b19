"""Collected -> Answer: the result with its figures, outputs uploaded or inline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.pipeline.echo import echo
from handler.pipeline.spill import ceiling, spilled
from handler.pipeline.stats import Times, stats_of
from handler.wire import Answer

if TYPE_CHECKING:
    from handler.pipeline.run import JobFolder
    from handler.pipeline.stages import Collected, Parts, Received
    from handler.pipeline.uploads import Uploads
    from handler.records import Output


@dataclass(frozen=True, slots=True)
class Clock:
    """When a job began, in monotonic seconds, and seconds of its parts so far."""

    began: float
    preprocess_s: float
    round_trip_s: float


async def deliver(
    collected: Collected,
    received: Received,
    parts: Parts,
    folder: JobFolder,
    clock: Clock,
    uploads: Uploads | None = None,
) -> Answer:
    """Make the answer; it owns the job's files until it is closed.

    Args:
        uploads: of a job that has targets; waited for.

    Raises:
        UploadFailed, UrlNotAllowed: an output is not stored.
        ResultTooLarge: it may not be so large, and there is no storage for it.
    """
    job, outputs, begun = received.job, collected.outputs, time.monotonic()
    if uploads is not None:
        stored = await uploads.finish(outputs)
        return _answer(collected, stored, received, parts, folder, clock, _since(begun))
    answer = _answer(collected, outputs, received, parts, folder, clock)
    limit = ceiling(job, parts.settings)
    if not limit or not answer.files or (size := answer.content_length()) <= limit:
        return answer
    stored = await spilled(outputs, job, parts, size, limit)
    answer = _answer(collected, stored, received, parts, folder, clock, _since(begun))
    answer.tail["stats"]["spilled"] = True
    return answer


def _answer(
    collected: Collected,
    outputs: list[Output],
    received: Received,
    parts: Parts,
    folder: JobFolder,
    clock: Clock,
    upload_s: float = 0.0,
) -> Answer:
    job, request, ran = received.job, received.request, collected.ran
    total_s = time.monotonic() - clock.began
    times = Times(clock.began, clock.preprocess_s, clock.round_trip_s, total_s)
    stats = stats_of(ran, job, parts, times, upload_s=upload_s)
    engine = {"kind": parts.engine.kind, "version": parts.engine.version}
    tail: dict[str, Any] = {"stats": stats, "engine": engine}
    return Answer(
        job.id,
        echo(request, job.id, ran.graph),
        outputs,
        tail,
        archive=request.archive is not None,
        on_close=folder.remove,
    )


def _since(begun: float) -> float:
    return time.monotonic() - begun
