"""An engine that lives and does nothing: told at the limit, then replaced."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from behaviour.driving import assert_error, assert_picture, begin, wait_phase
from behaviour.graphs import fresh_color, picture, silent, slow

if TYPE_CHECKING:
    from behaviour.conftest import StartServer
    from live import LiveServer

LIMIT_S = 1.0


def test_engine_that_freezes_in_a_run_is_told_at_the_limit_and_replaced(
    hard_server: LiveServer,
) -> None:
    """The job fails at its no-progress limit; the next one finds a running engine."""
    timeouts = {"no_progress_s": 5.0 if hard_server.engine == "comfyui" else LIMIT_S}
    job = begin(hard_server, "freezes", slow(hard_server.engine, 30), timeouts=timeouts)
    wait_phase(hard_server, "freezes", "running")
    os.kill(hard_server.engine_pid(), signal.SIGSTOP)
    begun = time.monotonic()
    response = job.result(60)
    took = time.monotonic() - begun
    body = assert_error(response, 504, "stalled")
    assert took < timeouts["no_progress_s"] + 1.5
    assert (body["retryable"], body["blame"]) == (True, "platform")
    color = fresh_color()
    assert_picture(hard_server.prompt(picture(color=color)), color)


def test_engine_that_froze_before_the_job_came_is_told_at_the_limit(
    hard_server: LiveServer,
) -> None:
    """A prompt that the engine does not even take is no different."""
    color = fresh_color()
    assert_picture(hard_server.prompt(picture(color=color)), color)
    os.kill(hard_server.engine_pid(), signal.SIGSTOP)
    begun = time.monotonic()
    response = hard_server.prompt(picture(), timeouts={"no_progress_s": LIMIT_S})
    assert_error(response, 504, "stalled")
    assert time.monotonic() - begun < LIMIT_S + 1.5
    color = fresh_color()
    assert_picture(hard_server.prompt(picture(color=color)), color)


@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_node_that_hangs_is_told_at_the_limit_and_jobs_behind_it_run(
    hard_server: LiveServer,
) -> None:
    """Who waits behind a stalled run is not failed with it."""
    server = hard_server
    stuck = begin(server, "stuck", silent(60), timeouts={"no_progress_s": LIMIT_S})
    wait_phase(server, "stuck", "running")
    color = fresh_color()
    behind = begin(server, "behind", picture(color=color), timeouts={"no_progress_s": LIMIT_S})
    begun = time.monotonic()
    assert_error(stuck.result(10), 504, "stalled")
    assert time.monotonic() - begun < LIMIT_S + 1.5
    assert_picture(behind.result(30), color)


def test_limits_of_callers_do_not_make_the_worker_unhealthy(start_server: StartServer) -> None:
    """However many stubborn runs are given up in a row, the engine is replaced and work goes on."""
    server = start_server(ENGINE_RESTARTS="1", CANCEL_GRACE_S="1")
    for _ in range(3):
        answer = server.prompt(silent(60), timeouts={"no_progress_s": 0.3})
        assert_error(answer, 504, "stalled")
        server.wait_for("/ready", status=503)
        server.wait_for("/ready")
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_engine_that_answers_is_given_its_grace_before_it_is_replaced(
    start_server: StartServer,
) -> None:
    """A caller's short limit costs the caller's job, and not the engine what it has loaded."""
    server = start_server(CANCEL_GRACE_S="20")
    engine = server.engine_pid()
    assert_error(server.prompt(silent(7), timeouts={"no_progress_s": 0.3}), 504, "stalled")
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert server.engine_pid() == engine


@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_jobs_that_come_and_go_behind_a_hung_one_do_not_keep_it_alive(
    hard_server: LiveServer,
) -> None:
    """Silence is of the run, not of the engine: traffic around it is no progress."""
    server = hard_server
    hung = begin(server, "hung", silent(60), timeouts={"no_progress_s": 1.5})
    wait_phase(server, "hung", "running")
    begun = time.monotonic()
    while not hung.done():
        answer = server.prompt(picture(), timeouts={"queue_s": 0.3})
        assert answer.status_code in {200, 503}
        assert time.monotonic() - begun < 5
    assert_error(hung.result(), 504, "stalled")


@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_short_limit_of_one_caller_does_not_cost_another_its_run(hard_server: LiveServer) -> None:
    """Who waits behind a run that is allowed its silence waits, whatever limit is its own."""
    server = hard_server
    color, behind_color = fresh_color(), fresh_color()
    long = begin(server, "long", silent(1.5, color))
    wait_phase(server, "long", "running")
    graph = picture(color=behind_color)
    behind = begin(server, "impatient", graph, timeouts={"no_progress_s": 0.5})
    assert_picture(long.result(20), color)
    assert_picture(behind.result(20), behind_color)


def test_slow_node_that_tells_its_steps_is_not_stalled(server: LiveServer) -> None:
    """The limit is on silence, not on length."""
    color = fresh_color()
    graph = slow(server.engine, 3, color=color)
    limit = {"no_progress_s": 8.0 if server.engine == "comfyui" else 0.6}
    assert_picture(server.prompt(graph, timeouts=limit), color)
