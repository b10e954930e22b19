"""How a worker of the real SDK begins and ends, each with a process of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import plain
from live import COMFY_HOME, alive, children
from platforms.runpod_double import RunpodDouble, RunpodWorker, engine_env, runpod_worker
from platforms.runpod_graphs import sleeping

if TYPE_CHECKING:
    from pathlib import Path


def test_a_job_that_is_not_over_in_time_is_left_to_another_worker(tmp_path: Path) -> None:
    """After DRAIN_TIMEOUT_S nothing is posted of it; handed out again it is run anew."""
    state = str(tmp_path / "state")
    with runpod_worker(tmp_path / "a", DRAIN_TIMEOUT_S="0.5", STATE_URL=state) as worker:
        job_id = worker.double.give({"prompt": sleeping(1.5, 15)})
        worker.double.until(lambda: worker.double.of(job_id, "progress"))
        assert worker.end() == 0
        assert worker.double.done(job_id) is None
        other = RunpodWorker(worker.double, tmp_path / "b", "other", STATE_URL=state).start()
        try:
            worker.double.give({"prompt": sleeping(1.5, 15)}, job_id)
            assert "output" in worker.double.result(job_id)
        finally:
            other.close()


def test_a_job_that_was_handed_out_twice_is_run_by_who_is_left(tmp_path: Path) -> None:
    """The other waited for its run, which ended with the first worker: that is no failure."""
    state = {"STATE_URL": str(tmp_path / "state"), "DRAIN_TIMEOUT_S": "1"}
    with (
        runpod_worker(tmp_path / "a", "a", **state) as one,
        runpod_worker(tmp_path / "b", "b", one.double, **state) as two,
    ):
        double = one.double
        job_id = double.give({"prompt": sleeping(6, 60)})
        double.until(lambda: double.of(job_id, "progress"))
        first, other = (one, two) if (job_id, "a") in double.taken else (two, one)
        double.give({"prompt": sleeping(6, 60)}, job_id)
        double.until(lambda: len(double.taken) == 2)
        time.sleep(0.5)  # it has found the run of the first, and waits for it
        assert first.end() == 0
        assert double.done(job_id) is None

        assert len(double.result(job_id)["output"]["images"]) == 1
        assert "is lost" in other.text()


def test_a_job_that_is_stopped_on_the_way_down_holds_nothing_up(tmp_path: Path) -> None:
    """The engine is not left to work for nobody until DRAIN_TIMEOUT_S."""
    with runpod_worker(tmp_path) as worker:
        job_id = worker.double.give({"prompt": sleeping(25, 250)})
        worker.double.until(lambda: worker.double.of(job_id, "progress"))
        worker.terminate()
        worker.double.until(lambda: "stopping: 1 jobs" in worker.text())
        begun = time.monotonic()
        worker.double.stop(job_id)

        assert worker.wait() == 0
        assert time.monotonic() - begun < 5
        assert worker.double.done(job_id) is None


def test_refresh_worker_ends_after_each_job(tmp_path: Path) -> None:
    """The result asks for another pod, and the process ends without waiting for its polls."""
    with runpod_worker(tmp_path, REFRESH_WORKER="true") as worker:
        posted = worker.double.run({"prompt": plain()})
        begun = time.monotonic()

        assert worker.wait(10) == 0
        assert time.monotonic() - begun < 3
    assert posted["stopPod"] is True
    assert len(posted["output"]["images"]) == 1


def test_an_engine_that_is_given_up_ends_the_worker(tmp_path: Path) -> None:
    """The job is told, another pod asked for, and the process ends with 1."""
    graph = plain()
    graph["s"] = {"class_type": "TestExit", "inputs": {"image": ["1", 0], "code": 3}}
    graph["2"]["inputs"]["images"] = ["s", 0]
    with runpod_worker(tmp_path, ENGINE_RESTARTS="0") as worker:
        posted = worker.double.run({"prompt": graph})

        assert worker.wait(15) == 1
    assert posted["output"]["code"] == "engine_died"
    assert "Traceback" not in json.dumps(posted)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"ENGINE": ""}, "no ComfyUI is found"),
        (
            {"ENGINE": "comfyui", "CMD": "false", "ALLOW_CPU": "true", "ENGINE_RESTARTS": "0"},
            "exited with code 1",
        ),
        ({"PORT": "none"}, "PORT"),
    ],
    ids=["no ComfyUI", "ends at its boot", "bad settings"],
)
def test_a_boot_that_fails_is_reported_and_ends(
    tmp_path: Path, env: dict[str, str], reason: str
) -> None:
    """An unhealthy ping with the reason, exit status 1, and no job was taken."""
    double = RunpodDouble().start()
    worker = RunpodWorker(double, tmp_path, **env)
    try:
        job_id = double.give({"prompt": plain()})
        worker.start(polling=False)

        assert worker.wait(30) == 1, worker.text()
        (ping,) = [one for one in double.pings if one.get("status") == "unhealthy"]
        assert reason in ping["reason"], ping
        assert ping["check"] == "comfyui_boots"
        assert double.taken == []
        assert double.done(job_id) is None
    finally:
        worker.close()
        double.close()


def test_sigterm_during_the_boot_leaves_nothing_behind(tmp_path: Path) -> None:
    """The engine's process goes with it."""
    double = RunpodDouble().start()
    worker = RunpodWorker(double, tmp_path, CMD="sleep 600", ENGINE="comfyui", ALLOW_CPU="true")
    try:
        worker.start(polling=False)
        double.until(lambda: "fitness check(s)" in worker.text(), 20)
        engine = worker.engine_pid()

        assert worker.end() == 0, worker.text()
        assert not alive(engine)
        assert not list((tmp_path / "work").iterdir())
    finally:
        worker.close()
        double.close()


def test_a_local_run_tells_by_its_status(tmp_path: Path) -> None:
    """`--test_input`: 0 for a success, 1 for a failure or no input."""
    nope = {"1": {"class_type": "Nope", "inputs": {}}}
    runs: list[tuple[Any, int]] = [({"prompt": plain()}, 0), ({"prompt": nope}, 1), (None, 1)]
    double = RunpodDouble().start()
    workers = [RunpodWorker(double, tmp_path / str(n), RUNPOD_WEBHOOK_GET_JOB="") for n in range(3)]
    try:
        for worker, (given, _) in zip(workers, runs, strict=True):
            worker.start("--test_input", json.dumps({"input": given}), polling=False)
        for worker, (_, status) in zip(workers, runs, strict=True):
            assert worker.wait(30) == status, worker.text()
            assert "Traceback" not in worker.text()
    finally:
        for worker in workers:
            worker.close()
        double.close()


def test_a_worker_that_is_killed_takes_its_engine_with_it(tmp_path: Path) -> None:
    """Although the SDK's ping process, which is a fork of it, lives on."""
    with runpod_worker(tmp_path) as worker:
        worker.double.until(lambda: worker.double.pings)
        engine = worker.engine_pid()
        assert worker.process is not None
        pings = [pid for pid in children(worker.process.pid) if os.getsid(pid) != pid]
        try:
            worker.end(signal.SIGKILL)
            worker.double.until(lambda: not alive(engine), 10)
        finally:
            for pid in pings:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.comfyui
def test_a_real_comfyui_works_behind_the_sdk(tmp_path: Path) -> None:
    """Booted by the fitness check; a job is run, another stopped, and SIGTERM ends it."""
    assert COMFY_HOME
    with runpod_worker(tmp_path, **engine_env("comfyui")) as worker:
        told = worker.double.run({"workflow": plain()})
        assert told["output"]["images"][0]["type"] == "base64"
        engine = worker.engine_pid()

        assert worker.end() == 0
        assert not alive(engine)
