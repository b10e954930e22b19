"""The warmup: before the first job, after every restart, and told when it fails."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import httpx
import pytest
from behaviour.driving import assert_error, assert_no_files_left, assert_picture, begin, wait_phase
from behaviour.graphs import fault, fresh_color, picture, slow

if TYPE_CHECKING:
    from live import LiveServer


def prompts_run(server: LiveServer) -> int:
    """Count the prompts that the engine's process has run."""
    state = httpx.get(f"{server.engine_url}/_test/state", trust_env=False)
    return int(state.json()["prompts_run"])


@pytest.mark.parametrize("source", ["WARMUP_PROMPT_JSON", "WARMUP_PROMPT_FILE"])
def test_warmup_runs_before_the_worker_is_ready(start_server, tmp_path, source: str) -> None:
    """At the first 200 of /ready the graph has run, and nothing of it is left."""
    text = json.dumps(picture())
    if source.endswith("FILE"):
        path = tmp_path / "warmup.json"
        path.write_text(text)
        text = str(path)
    server = start_server(**{source: text})
    assert prompts_run(server) == 1
    assert_no_files_left(server)
    assert server.get("/health").json()["boot"]["phases"]["warmup_s"] > 0
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_worker_is_not_ready_while_it_warms_up(start_server) -> None:
    """A job that comes during the warmup waits for it."""
    server = start_server(ready=False, WARMUP_PROMPT_JSON=json.dumps(slow("embedded", 1)))
    color = fresh_color()
    assert server.get("/ready").status_code == 503
    assert server.get("/health/startup").status_code == 503
    assert_picture(server.prompt(picture(color=color)), color)
    assert server.get("/ready").status_code == 200
    assert prompts_run(server) == 2


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (fault("TestRaise", message="cold feet"), "cold feet"),
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, "NoSuchNode"),
    ],
)
def test_warmup_that_fails_makes_the_worker_unhealthy(start_server, graph, words: str) -> None:
    """An image whose own graph does not run is not to get jobs."""
    server = start_server(ready=False, WARMUP_PROMPT_JSON=json.dumps(graph))
    server.wait_for("/health", 10, 500)
    assert words in server.get("/health").json()["reason"]
    assert_error(server.prompt(picture()), 503, "not_ready")


def test_warmup_may_fail_where_the_operator_says_so(start_server) -> None:
    """WARMUP_FAILURE=continue takes jobs all the same."""
    graph = json.dumps(fault("TestRaise", message="cold feet"))
    server = start_server(WARMUP_PROMPT_JSON=graph, WARMUP_FAILURE="continue")
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert "cold feet" in server.log.read_text()


def test_warmup_runs_again_after_a_restart(start_server) -> None:
    """A new engine process is as cold as the first one."""
    server = start_server(WARMUP_PROMPT_JSON=json.dumps(picture()))
    job = begin(server, "killed", slow("embedded", 30))
    wait_phase(server, "killed", "running")
    os.kill(server.engine_pid(), signal.SIGKILL)
    assert_error(job.result(10), 502, "engine_died")
    server.wait_for("/ready")
    assert prompts_run(server) == 1
