"""SIGTERM: jobs in hand end, new ones go elsewhere, nothing is left."""

from __future__ import annotations

import signal
import time

import httpx
from behaviour.driving import (
    assert_error,
    assert_no_files_left,
    assert_picture,
    begin,
    wait_phase,
    wait_until,
)
from behaviour.graphs import fresh_color, picture, slow
from behaviour.lone_engine import embedded_command
from live import LiveServer, alive, quoted


def test_job_in_hand_ends_and_new_ones_are_refused(start_server, engine: str) -> None:
    """What was taken is answered; the probes say that nothing more should come."""
    server = start_server(engine)
    color = fresh_color()
    job = begin(server, "in-hand", slow(engine, 2, color=color))
    wait_phase(server, "in-hand", "running")
    queued_color = fresh_color()
    queued = begin(server, "queued", picture(color=queued_color))
    pid = server.engine_pid()
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    wait_until("it drains", lambda: server.get("/ready").json()["phase"] == "draining")
    assert server.get("/ready").status_code == 503
    assert server.get("/health").status_code == 200
    body = assert_error(server.prompt(picture()), 503, "draining")
    assert body["retryable"] is True
    assert_picture(job.result(30), color)
    assert_picture(queued.result(30), queued_color)
    assert server.process.wait(10) == 0
    assert not alive(pid)
    assert_no_files_left(server)


def test_idle_server_is_gone_at_once(start_server, engine: str) -> None:
    """Without jobs a stop takes less than 1.5 s, with clients' idle connections open."""
    server = start_server(engine)
    pid = server.engine_pid()
    with httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
        client.get("/health").raise_for_status()
        begun = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - begun < 1.5
    assert not alive(pid)


def test_job_over_the_limit_is_cancelled(start_server) -> None:
    """The platform kills after its own limit: the caller is told before."""
    server = start_server(DRAIN_TIMEOUT_S="0.5")
    job = begin(server, "too-long", slow("embedded", 60))
    wait_phase(server, "too-long", "running")
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 3
    assert_error(job.result(1), 499, "cancelled")
    assert_no_files_left(server)


def test_followers_do_not_hold_the_server(start_server) -> None:
    """An event stream of a job that ends in the drain ends with it."""
    server = start_server()
    job = begin(server, "followed", slow("embedded", 0.8))
    wait_phase(server, "followed", "running")
    with httpx.stream("GET", f"{server.url}/jobs/followed/events", trust_env=False) as events:
        begun = time.monotonic()
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        text = events.read().decode()
    assert "event: succeeded" in text
    assert job.result(5).status_code == 200
    assert server.process.wait(5) == 0
    assert time.monotonic() - begun < 3


def test_sigterm_in_the_boot_ends_it(start_server, tmp_path) -> None:
    """A worker that is not wanted any more does not finish its boot first."""
    plan = LiveServer(tmp_path / "plan")
    command = embedded_command(plan.home, plan.engine_port, "--test-boot-seconds", "30")
    server = start_server(
        ready=False,
        ENGINE="auto",
        CMD=quoted(command),
        ALLOW_CPU="true",
        MODEL_DIR=str(tmp_path / "models"),
    )
    pid = server.engine_pid()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 1.5
    assert not alive(pid)
