"""An engine that does not start: tried again with pauses, then told, never waited for."""

from __future__ import annotations

import itertools
import time

import httpx
from behaviour.driving import assert_error, later
from behaviour.graphs import picture
from behaviour.lone_engine import LoneEngine
from live import LiveServer, quoted


def test_engine_that_exits_at_boot_is_tried_with_pauses_and_then_given_up(
    start_server, tmp_path
) -> None:
    """The port is open from the first moment, and the reason is told when the budget is spent."""
    marks = tmp_path / "starts"
    command = f"date +%s.%N >> {marks}; echo no such model folder; exit 1"
    begun = time.monotonic()
    server = start_server(
        ready=False,
        ENGINE="auto",
        CMD=quoted(["/bin/sh", "-c", command]),
        ALLOW_CPU="true",
        ENGINE_RESTARTS="2",
        MODEL_DIR=str(tmp_path / "models"),
    )
    opened = time.monotonic() - begun
    assert server.get("/health").json()["phase"] == "starting"
    early = later(server.prompt, picture())
    while server.get("/health").status_code == 200:
        assert server.get("/ready").status_code == 503
        assert time.monotonic() - begun < 20
    health = server.get("/health").json()
    assert (health["status"], health["phase"]) == ("not healthy", "unhealthy")
    assert "exited with code 1" in health["reason"]
    for answer in (early.result(5), server.prompt(picture())):
        body = assert_error(answer, 503, "not_ready")
        assert "no such model folder" in body["log_tail"]
    assert server.get("/ready").status_code == 503
    assert server.get("/health/live").status_code == 503
    starts = [float(line) for line in marks.read_text().split()]
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert len(starts) == 3
    assert pauses[0] >= 0.4
    assert pauses[1] >= 0.9
    assert opened < 3
    assert server.stop() == 0


def test_command_that_does_not_exist_is_told(start_server, tmp_path) -> None:
    """A worker whose engine is no program says which."""
    server = start_server(
        ready=False,
        ENGINE="auto",
        CMD="/no/such/program --port 1",
        ALLOW_CPU="true",
        ENGINE_RESTARTS="0",
        MODEL_DIR=str(tmp_path / "models"),
    )
    server.wait_for("/health", status=500)
    assert "/no/such/program" in server.get("/health").json()["reason"]


def test_taken_engine_port_is_an_error_and_the_program_there_is_not_used(
    start_server, tmp_path
) -> None:
    """An engine that somebody else started is never taken for ours."""
    foreign = LoneEngine(tmp_path / "foreign").start()
    try:
        server = start_server(ready=False, COMFYUI_PORT_HOST=str(foreign.port), ENGINE_RESTARTS="0")
        server.wait_for("/health", status=500)
        assert f"port {foreign.port}" in server.get("/health").json()["reason"]
        assert_error(server.prompt(picture()), 503, "not_ready")
        state = httpx.get(f"{foreign.url}/_test/state", trust_env=False).json()
        assert (state["prompts_run"], state["sockets"]) == (0, 0)
    finally:
        foreign.kill()


def test_own_port_that_is_taken_ends_the_program(tmp_path) -> None:
    """A server that cannot listen says so and ends, before any engine is started."""
    first = LoneEngine(tmp_path / "holder").start()
    try:
        server = LiveServer(tmp_path / "second", PORT=str(first.port))
        server.home.mkdir()
        server.port = first.port
        try:
            server.start()
        except AssertionError:
            assert server.process is not None
            assert server.process.wait(10) != 0
        assert "engine" not in server.log.read_text().replace("engine_port", "").lower()
    finally:
        first.kill()
