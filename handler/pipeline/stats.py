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
        **_who(job, parts),
        "cold": ran.cold,
    }
    if ran.cold:
        told["boot"] = _boot(parts)
    return told


def stats_of_failure(job: Job, parts: Parts, ran: Ran | None) -> dict[str, Any]:
    """Give `stats` of a job that fails now, as far as it got; times are milliseconds.

    Args:
        ran: what its run told; None where none was begun.

    Returns:
        `gpu_time` is None where the engine did not begin, `cold` where it was not asked to.
    """
    stage_s = job.stages_so_far()
    begun = ran is not None and ran.started_ms is not None
    told = {
        "total_time": _ms(sum(stage_s.values())),
        "queue_time": _ms(stage_s.get("queued", 0.0)),
        "fetch_time": _ms(stage_s.get("fetching", 0.0)),
        "gpu_time": _ms(stage_s.get("running", 0.0)) if begun else None,
        **_who(job, parts),
        "cold": None if ran is None else ran.cold,
    }
    if ran is not None and ran.cold:
        told["boot"] = _boot(parts)
    return told


def _who(job: Job, parts: Parts) -> dict[str, Any]:
    engine, device = parts.engine, parts.engine.device
    return {
        "instance": parts.identity.instance,
        "adapter": job.adapter,
        "engine": {"kind": engine.kind, "version": engine.version},
        "gpu": device and {"name": device.name, "vram_total": device.vram_total},
    }


def _boot(parts: Parts) -> dict[str, Any]:
    return dict(parts.engine.boot_report.get("phases") or {})


def _execution(ran: Ran) -> dict[str, Any]:
    start, end = ran.started_ms, ran.ended_ms
    duration = end - start if start is not None and end is not None else None
    total = {"start": start, "end": end, "duration": duration}
    nodes = {node_id: {"start": at} for node_id, at in ran.node_ms.items()}
    # `total` repeats the flat keys: comfyui-api's README shows it, its code does not have it.
    return {**total, "total": total, "nodes": nodes}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
