"""The engine ends in the middle of a run: told at once, and the next job runs."""

from __future__ import annotations

import os
import signal
import time

import pytest
from behaviour.driving import assert_error, assert_picture, begin, wait_phase, wait_until
from behaviour.graphs import fault, fresh_color, picture, slow
from behaviour.lone_engine import embedded_command
from live import LiveServer, alive, children, quoted


def test_killed_engine_fails_its_job_within_two_seconds_and_the_next_job_runs(
    hard_server: LiveServer,
) -> None:
    """A caller is told what happened, whose fault it is and that another try may do."""
    job = begin(hard_server, "killed", slow(hard_server.engine, 20))
    wait_phase(hard_server, "killed", "running")
    killed_at = time.monotonic()
    os.kill(hard_server.engine_pid(), signal.SIGKILL)
    response = job.result(30)
    took = time.monotonic() - killed_at
    body = assert_error(response, 502, "engine_died")
    assert took < 6
    assert (body["retryable"], body["blame"]) == (True, "platform")
    assert body["log_tail"]
    assert "SIGKILL" in body["error"]
    color = fresh_color()
    assert_picture(hard_server.prompt(picture(color=color)), color)
    assert hard_server.get("/ready").status_code == 200


def test_prompt_that_only_waited_in_the_engine_is_handed_in_again(hard_server: LiveServer) -> None:
    """Of two prompts in the engine's hands only the one that ran is lost."""
    running = begin(hard_server, "ran", slow(hard_server.engine, 20))
    wait_phase(hard_server, "ran", "running")
    color = fresh_color()
    queued = begin(hard_server, "waited", picture(color=color))
    wait_phase(hard_server, "waited", "queued")
    third_color = fresh_color()
    third = begin(hard_server, "third", picture(color=third_color))
    os.kill(hard_server.engine_pid(), signal.SIGKILL)
    assert_error(running.result(30), 502, "engine_died")
    assert_picture(queued.result(60), color)
    assert_picture(third.result(60), third_color)


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_engine_that_exits_by_itself_is_an_engine_that_died(
    hard_server: LiveServer, code: int
) -> None:
    """Exit status 0 in the middle of a run is no better than any other."""
    server = hard_server
    body = assert_error(server.prompt(fault("TestExit", code=code)), 502, "engine_died")
    assert f"exited with code {code}" in body["error"]
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_engine_that_always_dies_makes_the_worker_unhealthy(start_server) -> None:
    """After its budget of restarts the worker says so, and refuses instead of taking jobs."""
    server = start_server(ENGINE_RESTARTS="1")
    for _ in range(2):
        assert_error(server.prompt(fault("TestExit", code=3)), 502, "engine_died")
    server.wait_for("/health", status=500)
    assert "exited with code 3" in server.get("/health").json()["reason"]
    assert_error(server.prompt(picture()), 503, "not_ready")


def test_launcher_that_is_killed_takes_its_engine_with_it(start_server, tmp_path) -> None:
    """An engine behind a dead wrapper is nobody's: it goes, and a new one takes the port."""
    server = LiveServer(tmp_path / "wrapped")
    inner = quoted(embedded_command(server.home / "engine", server.engine_port))
    server = start_server(
        ENGINE="auto",
        CMD=quoted(["/bin/sh", "-c", f"{inner}; true"]),
        ALLOW_CPU="true",
        COMFYUI_PORT_HOST=str(server.engine_port),
        MODEL_DIR=str(tmp_path / "models"),
        INPUT_DIR=str(server.home / "engine" / "input"),
        OUTPUT_DIR=str(server.home / "engine" / "output"),
    )
    shell = server.engine_pid()
    (grandchild,) = children(shell)
    job = begin(server, "wrapped", slow("embedded", 20))
    wait_phase(server, "wrapped", "running")
    os.kill(shell, signal.SIGKILL)
    assert_error(job.result(30), 502, "engine_died")
    wait_until("the engine behind the wrapper is gone", lambda: not alive(grandchild), 2)
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
