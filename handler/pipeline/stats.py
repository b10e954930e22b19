"""The figures of an answer: comfyui-api's keys, and what tells where the time and money went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler.job import Job
    from handler.pipeline.stages import Parts, Ran


@dataclass(frozen=True, slots=True)
class Times:
    """When a job began, and seconds of its parts.

    Attributes:
        began: monotonic seconds; the wait for the engine's boot is before it.
        preprocess_s: checking, and fetching inputs and models.
        round_trip_s: waiting for the engine and running.
        total_s: all since `began`.
    """

    began: float
    preprocess_s: float
    round_trip_s: float
    total_s: float


def stats_of(
    ran: Ran, job: Job, parts: Parts, times: Times, *, upload_s: float = 0.0
) -> dict[str, Any]:
    """Give `stats` of an answer; times are milliseconds.

    Args:
        upload_s: seconds that the job waited for its uploads after everything else was done.
    """
    engine, device = parts.engine, parts.engine.device
    execution = _execution(ran)
    rest_s = times.total_s - times.preprocess_s - times.round_trip_s - upload_s
    told = {
        "comfy_execution": execution,
        "preprocess_time": _ms(times.preprocess_s),
        "comfy_round_trip_time": _ms(times.round_trip_s),
        "postprocess_time": _ms(rest_s),
        "upload_time": _ms(upload_s),
        "total_time": _ms(times.total_s),
        "queue_time": _ms(job.stage_s.get("queued", 0.0)),
        "fetch_time": _ms(job.stage_s.get("fetching", 0.0)),
        "gpu_time": execution["duration"],
        "cached_nodes": list(ran.cached),
        "instance": parts.identity.instance,
        "adapter": job.adapter,
        "engine": {"kind": engine.kind, "version": engine.version},
        "gpu": device and {"name": device.name, "vram_total": device.vram_total},
        "cold": ran.cold,
    }
    if ran.cold:
        told["boot"] = dict(engine.boot_report.get("phases") or {})
    return told


def _execution(ran: Ran) -> dict[str, Any]:
    start, end = ran.started_ms, ran.ended_ms
    duration = end - start if start is not None and end is not None else None
    total = {"start": start, "end": end, "duration": duration}
    nodes = {node_id: {"start": at} for node_id, at in ran.node_ms.items()}
    # `total` repeats the flat keys: comfyui-api's README shows it, its code does not have it.
    return {**total, "total": total, "nodes": nodes}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
