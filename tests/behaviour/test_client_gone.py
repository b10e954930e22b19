"""A caller goes away: its job is cancelled, wherever it is, and the engine is free at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from behaviour.driving import (
    Client,
    assert_no_files_left,
    assert_picture,
    begin,
    wait_phase,
)
from behaviour.graphs import fresh_color, load, picture, slow

if TYPE_CHECKING:
    from behaviour.file_server import FileServer
    from live import LiveServer


def assert_engine_is_free(server: LiveServer) -> None:
    """Make sure that a new job runs without waiting for an old one."""
    begun = time.monotonic()
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert time.monotonic() - begun < (1.5 if server.engine == "embedded" else 8)


def test_client_that_leaves_while_its_input_is_fetched(
    server: LiveServer, files: FileServer
) -> None:
    """The download stops."""
    client = Client(server, {"prompt": load(f"{files.url}/slow.png"), "id": "left-fetching"})
    wait_phase(server, "left-fetching", "fetching")
    client.leave()
    wait_phase(server, "left-fetching", "cancelled", limit_s=2)
    assert_engine_is_free(server)
    assert_no_files_left(server)


def test_client_that_leaves_while_its_job_runs(server: LiveServer) -> None:
    """The engine does not work for nobody."""
    client = Client(server, {"prompt": slow(server.engine, 30), "id": "left-running"})
    wait_phase(server, "left-running", "running")
    client.leave()
    wait_phase(server, "left-running", "cancelled", limit_s=2)
    assert_engine_is_free(server)


@pytest.mark.parametrize("ahead", [1, 2])
def test_client_that_leaves_while_its_job_is_queued(server: LiveServer, ahead: int) -> None:
    """In the engine's queue or in ours: the job leaves it, and those around it stay."""
    colors = [fresh_color() for _ in range(ahead)]
    jobs = [
        begin(server, f"ahead-{ahead}-{i}", slow(server.engine, 1, color=color))
        for i, color in enumerate(colors)
    ]
    name = f"left-queued-{ahead}"
    client = Client(server, {"prompt": slow(server.engine, 30), "id": name})
    wait_phase(server, name, "queued")
    color = fresh_color()
    behind = begin(server, f"behind-{ahead}", picture(color=color))
    client.leave()
    wait_phase(server, name, "cancelled", limit_s=2)
    for job, expected in zip(jobs, colors, strict=True):
        assert_picture(job.result(30), expected)
    assert_picture(behind.result(30), color)


def test_many_clients_that_leave_at_once(server: LiveServer) -> None:
    """A whole crowd leaving leaves no job and no file behind."""
    names = [f"crowd-{index}" for index in range(12)]
    crowd = [Client(server, {"prompt": slow(server.engine, 30), "id": name}) for name in names]
    for name in names:
        wait_phase(server, name, "queued", "running")
    for client in crowd:
        client.leave()
    for name in names:
        wait_phase(server, name, "cancelled", limit_s=5)
    assert_engine_is_free(server)
    assert_no_files_left(server)
