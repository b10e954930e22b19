"""Collected -> Answer: the result with its figures."""

from __future__ import annotations

import time

from worker import GRAPH, parts_in, received

from handler.pipeline.deliver import deliver
from handler.pipeline.run import JobFolder
from handler.pipeline.stages import Collected, Ran
from handler.records import JOBS_FOLDER


def delivered(home, ran, times=(0.5, 1.0), **keys):
    parts, job = parts_in(home), received(**keys)
    job.job.stage_s["queued"] = 0.25
    began = time.monotonic() - 2.0
    folder = JobFolder(job.job, parts)
    return deliver(Collected(ran, []), job, parts, folder, (began, *times))


def test_times_are_told_in_milliseconds_and_add_up(tmp_path):
    """Preprocessing, the engine, and the rest are the total."""
    stats = delivered(tmp_path, Ran(GRAPH, [])).tail["stats"]

    assert (stats["preprocess_time"], stats["comfy_round_trip_time"]) == (500, 1000)
    parts = stats["preprocess_time"] + stats["comfy_round_trip_time"] + stats["postprocess_time"]
    assert abs(stats["total_time"] - parts) < 0.01
    assert 2000 <= stats["total_time"] < 4000
    assert (stats["queue_time"], stats["upload_time"]) == (250, 0)


def test_the_engines_times_are_told_in_both_forms(tmp_path):
    """Flat as comfyui-api's code has them, and under `total` as its README shows."""
    ran = Ran(GRAPH, [], started_ms=1000, ended_ms=1800, node_ms={"1": 1100}, cached=("2",))
    stats = delivered(tmp_path, ran).tail["stats"]

    total = {"start": 1000, "end": 1800, "duration": 800}
    assert stats["comfy_execution"] == {**total, "total": total, "nodes": {"1": {"start": 1100}}}
    assert stats["cached_nodes"] == ["2"]


def test_a_run_whose_messages_were_lost_has_no_duration(tmp_path):
    """None, not a guess."""
    execution = delivered(tmp_path, Ran(GRAPH, [], ended_ms=5)).tail["stats"]["comfy_execution"]
    assert (execution["start"], execution["duration"]) == (None, None)


async def test_the_request_is_echoed_and_the_engine_named(tmp_path):
    """The graph as it ran; conversion options as comfyui-api spells them."""
    ran = Ran({"1": {"class_type": "X"}}, [])
    plain = delivered(tmp_path, ran, id="me")
    assert plain.head == {"id": "me", "prompt": ran.graph}
    assert plain.tail["engine"] == {"kind": "memory", "version": "0"}

    wish = {"format": "jpeg", "options": {"chromaSubsampling": "4:4:4"}}
    converted = delivered(tmp_path, ran, convert_output=wish)
    assert converted.head["convert_output"]["options"]["chromaSubsampling"] == "4:4:4"


async def test_closing_the_answer_removes_the_jobs_files(tmp_path):
    """It owns them from here on."""
    answer = delivered(tmp_path, Ran(GRAPH, []))
    path = tmp_path / "output" / JOBS_FOLDER / "uid" / "a"
    path.parent.mkdir(parents=True)
    path.touch()
    await answer.close()

    assert not path.parent.exists()
