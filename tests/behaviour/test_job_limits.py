"""A caller's own limits: on the whole job, and on the wait for the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from behaviour.driving import assert_error, assert_no_files_left, assert_picture, begin, wait_phase
from behaviour.graphs import fresh_color, load, picture, slow
from behaviour.lone_engine import embedded_command
from live import LiveServer, quoted

if TYPE_CHECKING:
    from behaviour.file_server import FileServer


def test_running_job_over_its_total_time_is_ended(server: LiveServer) -> None:
    """The answer comes at the limit, and the engine does not go on with it."""
    begun = time.monotonic()
    answer = server.prompt(slow(server.engine, 30), timeouts={"total_s": 1.0})
    body = assert_error(answer, 504, "timed_out")
    assert 0.9 < time.monotonic() - begun < 4
    assert body["retryable"] is True
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert time.monotonic() - begun < (3 if server.engine == "embedded" else 10)


def test_fetching_counts_into_the_total_time(server: LiveServer, files: FileServer) -> None:
    """A download that hangs is ended as well."""
    begun = time.monotonic()
    answer = server.prompt(load(f"{files.url}/slow.png"), timeouts={"total_s": 0.5})
    assert_error(answer, 504, "timed_out")
    assert time.monotonic() - begun < 4
    assert_no_files_left(server)


def test_job_that_waits_too_long_is_refused(server: LiveServer) -> None:
    """In the engine's queue or in ours: a wait is a wait. Those around it are not touched."""
    color = fresh_color()
    running = begin(server, "long", slow(server.engine, 3, color=color))
    wait_phase(server, "long", "running")
    for job_id in ("second", "third"):
        begin(server, job_id, picture(), timeouts={"queue_s": 60.0})
        begun = time.monotonic()
        answer = server.prompt(picture(), timeouts={"queue_s": 0.4})
        body = assert_error(answer, 503, "queue_timed_out")
        assert 0.3 < time.monotonic() - begun < 1.8
        assert (body["retryable"], body["blame"]) == (True, "platform")
        assert int(answer.headers["retry-after"]) >= 1
    assert_picture(running.result(60), color)


def test_prompt_in_the_engines_queue_waits_no_longer_than_its_limit(server: LiveServer) -> None:
    """The second of two prompts is in the engine's hands and waits all the same."""
    color = fresh_color()
    running = begin(server, "first", slow(server.engine, 2, color=color))
    wait_phase(server, "first", "running")
    begun = time.monotonic()
    answer = server.prompt(picture(), timeouts={"queue_s": 0.4})
    assert_error(answer, 503, "queue_timed_out")
    assert 0.3 < time.monotonic() - begun < 1.8
    assert_picture(running.result(60), color)


def test_limit_on_the_wait_is_not_one_on_the_run(server: LiveServer) -> None:
    """A job that began in time may run as long as it takes."""
    color = fresh_color()
    graph = slow(server.engine, 1.2, color=color)
    assert_picture(server.prompt(graph, timeouts={"queue_s": 0.8}), color)


def test_boot_counts_into_the_total_time(start_server, tmp_path) -> None:
    """A caller with a limit is not kept until an engine has booted."""
    plan = LiveServer(tmp_path / "plan")
    command = embedded_command(plan.home, plan.engine_port, "--test-boot-seconds", "30")
    server = start_server(
        ready=False,
        ENGINE="auto",
        CMD=quoted(command),
        ALLOW_CPU="true",
        MODEL_DIR=str(tmp_path / "models"),
    )
    begun = time.monotonic()
    assert_error(server.prompt(picture(), timeouts={"total_s": 0.5}), 504, "timed_out")
    assert time.monotonic() - begun < 5
