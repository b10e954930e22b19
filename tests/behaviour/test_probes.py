"""The probes: what a balancer and an orchestrator are told, from the first moment on."""

from __future__ import annotations

import os
import signal
import time

import httpx
import pytest
from behaviour.driving import assert_picture, begin, later, wait_phase, wait_until
from behaviour.graphs import fresh_color, picture, slow
from behaviour.lone_engine import embedded_command
from live import LiveServer, quoted


def states(server: LiveServer) -> dict[str, int]:
    """Ask every probe."""
    paths = ("/health", "/ready", "/health/startup", "/health/live", "/health/ready")
    with httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
        return {path: client.get(path).status_code for path in paths}


def test_probes_while_the_engine_boots(start_server, tmp_path) -> None:
    """Alive and not ready, with the reason; a job sent now waits and succeeds."""
    plan = LiveServer(tmp_path / "plan")
    command = embedded_command(plan.home, plan.engine_port, "--test-boot-seconds", "3")
    begun = time.monotonic()
    server = start_server(
        ready=False,
        ENGINE="auto",
        CMD=quoted(command),
        ALLOW_CPU="true",
        COMFYUI_PORT_HOST=str(plan.engine_port),
        MODEL_DIR=str(tmp_path / "models"),
        INPUT_DIR=str(plan.home / "input"),
        OUTPUT_DIR=str(plan.home / "output"),
    )
    booting = {"/health": 200, "/health/live": 200}
    waiting = {"/ready": 503, "/health/ready": 503, "/health/startup": 503}
    assert states(server) == {**booting, **waiting}
    health = server.get("/health").json()
    assert (health["status"], health["phase"]) == ("healthy", "starting")
    ready = server.get("/ready").json()
    assert (ready["status"], ready["phase"]) == ("not ready", "starting")
    assert ready["reason"]
    color = fresh_color()
    job = later(server.prompt, picture(color=color))
    assert_picture(job.result(20), color)
    assert time.monotonic() - begun > 3
    assert set(states(server).values()) == {200}
    assert server.get("/ready").json() == {
        "version": health["version"],
        "status": "ready",
        "phase": "ready",
        "reason": None,
    }


@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_probes_while_the_engine_restarts(hard_server: LiveServer) -> None:
    """A restart is no reason to replace the worker, and none to start over with its startup."""
    server = hard_server
    os.kill(server.engine_pid(), signal.SIGKILL)
    wait_until("it notices", lambda: server.get("/ready").status_code == 503, 2)
    body = server.get("/ready").json()
    assert body["phase"] == "recovering"
    assert "SIGKILL" in body["reason"]
    told = states(server)
    assert (told["/health"], told["/health/live"], told["/health/startup"]) == (200, 200, 200)
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_busy_worker_is_ready(server: LiveServer) -> None:
    """A worker with a job takes another: readiness is about the queue, not about idleness."""
    job = begin(server, "busy", slow(server.engine, 1))
    wait_phase(server, "busy", "running")
    assert set(states(server).values()) == {200}
    assert job.result(30).status_code == 200


def test_heads_of_probes_are_answered(server: LiveServer) -> None:
    """Balancers that probe with HEAD get the status without a body."""
    answer = httpx.head(f"{server.url}/health", trust_env=False)
    assert (answer.status_code, answer.content) == (200, b"")
