"""Collected -> Answer: the result with its figures, outputs inline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from handler.wire import Answer

if TYPE_CHECKING:
    from handler.pipeline.run import JobFolder
    from handler.pipeline.stages import Collected, Parts, Ran, Received


def deliver(
    collected: Collected,
    received: Received,
    parts: Parts,
    folder: JobFolder,
    times: tuple[float, float, float],
) -> Answer:
    """Make the answer; it owns the job's files until it is closed.

    Args:
        times: monotonic start, and seconds of preprocessing and of the engine's round trip.
    """
    job, request, ran = received.job, received.request, collected.ran
    began, preprocess_s, round_trip_s = times
    total_s = time.monotonic() - began
    head: dict[str, Any] = {"id": job.id, "prompt": ran.graph}
    if request.convert_output is not None:
        head["convert_output"] = request.convert_output.public()
    stats = {
        "comfy_execution": _execution(ran),
        "preprocess_time": _ms(preprocess_s),
        "comfy_round_trip_time": _ms(round_trip_s),
        "postprocess_time": _ms(total_s - preprocess_s - round_trip_s),
        "upload_time": 0,
        "total_time": _ms(total_s),
        "queue_time": _ms(job.stage_s.get("queued", 0.0)),
        "cached_nodes": list(ran.cached),
    }
    engine = {"kind": parts.engine.kind, "version": parts.engine.version}
    tail = {"stats": stats, "engine": engine}
    return Answer(job.id, head, collected.outputs, tail, on_close=folder.remove)


def _execution(ran: Ran) -> dict[str, Any]:
    start, end = ran.started_ms, ran.ended_ms
    duration = end - start if start is not None and end is not None else None
    total = {"start": start, "end": end, "duration": duration}
    nodes = {node_id: {"start": at} for node_id, at in ran.node_ms.items()}
    # `total` repeats the flat keys: comfyui-api's README shows it, its code does not have it.
    return {**total, "total": total, "nodes": nodes}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
