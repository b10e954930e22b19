"""The figures of an answer."""

from __future__ import annotations

import time
from dataclasses import replace

from worker import GRAPH, parts_in, received

from handler.engine.usage import Device
from handler.identity import Identity
from handler.job import Phase
from handler.pipeline.stages import Ran
from handler.pipeline.stats import Times, stats_of, stats_of_failure


def told(home, ran=None, *, upload_s=0.0, device=None, findings=None):
    parts = replace(parts_in(home), identity=Identity("worker-7"))
    parts.engine.device = device
    parts.engine.findings = findings or {}
    job = received().job
    job.stage_s = {"queued": 0.25, "fetching": 0.125, "running": 0.8}
    times = Times(time.monotonic(), 0.5, 1.0, 2.0)
    return stats_of(ran or Ran(GRAPH, []), job, parts, times, upload_s=upload_s)


def test_times_are_milliseconds_and_add_up(tmp_path):
    """Preprocessing, the engine, the rest and the uploads are the total."""
    stats = told(tmp_path, upload_s=0.3)

    assert (stats["preprocess_time"], stats["comfy_round_trip_time"]) == (500, 1000)
    assert (stats["postprocess_time"], stats["upload_time"]) == (200, 300)
    assert stats["total_time"] == 2000
    assert (stats["queue_time"], stats["fetch_time"]) == (250, 125)


def test_the_engines_times_are_told_in_both_forms(tmp_path):
    """Flat as comfyui-api's code has them, and under `total` as its README shows."""
    ran = Ran(GRAPH, [], started_ms=1000, ended_ms=1800, node_ms={"1": 1100}, cached=("2",))
    stats = told(tmp_path, ran)

    total = {"start": 1000, "end": 1800, "duration": 800}
    assert stats["comfy_execution"] == {**total, "total": total, "nodes": {"1": {"start": 1100}}}
    assert (stats["gpu_time"], stats["cached_nodes"]) == (800, ["2"])


def test_a_run_whose_messages_were_lost_has_no_duration(tmp_path):
    """None, not a guess."""
    stats = told(tmp_path, Ran(GRAPH, [], ended_ms=5))

    assert stats["comfy_execution"]["start"] is None
    assert stats["gpu_time"] is None


def test_an_answer_names_who_made_it(tmp_path):
    """Instance, adapter, engine and GPU; a worker without a GPU says so."""
    stats = told(tmp_path, device=Device("NVIDIA H200", 150_000_000_000))

    assert (stats["instance"], stats["adapter"]) == ("worker-7", "http")
    assert stats["engine"] == {"kind": "memory", "version": "0"}
    assert stats["gpu"] == {"name": "NVIDIA H200", "vram_total": 150_000_000_000}
    assert told(tmp_path / "b")["gpu"] is None


def test_the_boots_phases_go_with_a_cold_job_only(tmp_path):
    """Who waited is told for what."""
    findings = {"phases": {"engine_answering_s": 6.5, "total_s": 7.0}}
    cold = told(tmp_path, Ran(GRAPH, [], cold=True), findings=findings)
    warm = told(tmp_path / "b", findings=findings)

    assert (cold["cold"], cold["boot"]) == (True, findings["phases"])
    assert warm["cold"] is False
    assert "boot" not in warm


def test_a_failure_has_figures_as_far_as_it_got(tmp_path):
    """Who had it, how long it waited, and what of the GPU's time it took."""
    parts = replace(parts_in(tmp_path), identity=Identity("worker-7"))
    parts.engine.device = Device("NVIDIA H200", 150_000_000_000)
    job = received().job
    before = stats_of_failure(job, parts, None)
    assert (before["gpu_time"], before["cold"], before["queue_time"]) == (None, None, 0)
    assert before["total_time"] > 0
    job.stage_s = {"queued": 0.25, "fetching": 0.125}
    ran = Ran(GRAPH, [], cold=True)
    assert stats_of_failure(job, parts, ran)["gpu_time"] is None  # in the engine's queue

    job.enter(Phase.RUNNING)
    after = stats_of_failure(job, parts, replace(ran, started_ms=5))
    assert after["gpu_time"] > 0
    assert after["total_time"] > 375
    assert after == {
        **{key: after[key] for key in ("total_time", "gpu_time")},
        "queue_time": 250,
        "fetch_time": 125,
        "cold": True,
        "boot": {},
        "instance": "worker-7",
        "adapter": "http",
        "engine": {"kind": "memory", "version": "0"},
        "gpu": {"name": "NVIDIA H200", "vram_total": 150_000_000_000},
    }
