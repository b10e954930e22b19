"""The server is killed: its engine does not outlive it."""

from __future__ import annotations

import signal

from behaviour.driving import begin, wait_phase, wait_until
from behaviour.graphs import slow
from behaviour.lone_engine import embedded_command
from live import LiveServer, alive, children, quoted


def kill_and_see(server: LiveServer, pids: list[int]) -> None:
    """Kill the server while it has a job, and see its children go."""
    begin(server, "orphan", slow(server.engine, 30))
    wait_phase(server, "orphan", "running")
    assert all(alive(pid) for pid in pids)
    server.stop(signal.SIGKILL)
    wait_until("the engine is gone", lambda: not any(alive(pid) for pid in pids), 2)


def test_killed_server_leaves_no_engine(start_server, engine: str) -> None:
    """Within two seconds neither engine nor watchdog is left, and the next server can start."""
    server = start_server(engine)
    assert server.process is not None
    kill_and_see(server, children(server.process.pid))
    if engine == "embedded":
        server.start()
        assert server.stop() == 0


def test_killed_server_leaves_no_engine_behind_a_shell(start_server, tmp_path) -> None:
    """An engine that a wrapper of the operator started is ended as well."""
    plan = LiveServer(tmp_path / "plan")
    inner = quoted(embedded_command(plan.home / "engine", plan.engine_port))
    server = start_server(
        ENGINE="auto",
        CMD=quoted(["/bin/sh", "-c", f"{inner}; true"]),
        ALLOW_CPU="true",
        COMFYUI_PORT_HOST=str(plan.engine_port),
        MODEL_DIR=str(tmp_path / "models"),
        INPUT_DIR=str(plan.home / "engine" / "input"),
        OUTPUT_DIR=str(plan.home / "engine" / "output"),
    )
    shell = server.engine_pid()
    kill_and_see(server, [shell, *children(shell)])


def test_server_killed_in_its_boot_leaves_no_engine(start_server, tmp_path) -> None:
    """The engine is launched before the server is up: it is watched from its first moment."""
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
    server.stop(signal.SIGKILL)
    wait_until("the engine is gone", lambda: not alive(pid), 2)
