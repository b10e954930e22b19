"""A job is cancelled where it is, and no other notices."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from behaviour.driving import (
    assert_error,
    assert_no_files_left,
    assert_picture,
    begin,
    wait_phase,
    wait_until,
)
from behaviour.graphs import fresh_color, load, picture, slow
from live import alive

if TYPE_CHECKING:
    import httpx
    from behaviour.conftest import StartServer
    from behaviour.file_server import FileServer
    from live import LiveServer


def interrupt(server: LiveServer, job_id: str) -> httpx.Response:
    """POST /interrupt."""
    return server.post("/interrupt", {"id": job_id})


def test_job_that_fetches_is_cancelled_at_once(server: LiveServer, files: FileServer) -> None:
    """A slow download is no reason to wait."""
    job = begin(server, "fetches", load(f"{files.url}/slow.png"))
    wait_phase(server, "fetches", "fetching")
    assert files.asked.wait(10)
    begun = time.monotonic()
    answer = interrupt(server, "fetches")
    assert answer.status_code == 200
    assert answer.json() == {"id": "fetches", "interrupted": "success"}
    body = assert_error(job.result(5), 499, "cancelled")
    assert time.monotonic() - begun < 4
    assert body["blame"] == "caller"
    assert server.get("/jobs/fetches").json()["status"] == "cancelled"
    assert_no_files_left(server)


def test_queued_job_is_cancelled_and_the_running_one_is_not_touched(server: LiveServer) -> None:
    """The engine's interrupt never hits the prompt of another."""
    color = fresh_color()
    running = begin(server, "a-runs", slow(server.engine, 2, 20, 12, color))
    wait_phase(server, "a-runs", "running")
    in_engine = begin(server, "b-queued", picture())
    in_line = begin(server, "c-queued", picture())
    wait_phase(server, "c-queued", "queued")
    for job_id, job in (("b-queued", in_engine), ("c-queued", in_line)):
        begun = time.monotonic()
        assert interrupt(server, job_id).status_code == 200
        assert_error(job.result(5), 499, "cancelled")
        assert time.monotonic() - begun < 4
    assert_picture(running.result(60), color, (20, 12))


def test_running_job_is_cancelled_and_the_one_behind_it_runs(server: LiveServer) -> None:
    """The engine is free for the next prompt as soon as its node heeds the interrupt."""
    running = begin(server, "a-cancelled", slow(server.engine, 20))
    wait_phase(server, "a-cancelled", "running")
    color = fresh_color()
    behind = begin(server, "b-intact", picture(20, 12, color))
    begun = time.monotonic()
    assert interrupt(server, "a-cancelled").status_code == 200
    assert_error(running.result(5), 499, "cancelled")
    assert time.monotonic() - begun < 4
    assert_picture(behind.result(30), color, (20, 12))
    assert time.monotonic() - begun < (2 if server.engine == "embedded" else 8)


def test_cancel_in_a_frozen_engine_replaces_it_after_the_grace(start_server: StartServer) -> None:
    """The grace begins with the cancel, not when a request to a dead end is given up."""
    server = start_server(CANCEL_GRACE_S="1")
    job = begin(server, "frozen", slow("embedded", 30))
    wait_phase(server, "frozen", "running")
    frozen = server.engine_pid()
    os.kill(frozen, signal.SIGSTOP)
    begun = time.monotonic()
    assert interrupt(server, "frozen").status_code == 200
    assert_error(job.result(5), 499, "cancelled")
    wait_until("the engine is killed", lambda: not alive(frozen))
    assert 1 <= time.monotonic() - begun < 3
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_id_of_no_job_in_hand_is_not_found(server: LiveServer) -> None:
    """Unknown ids and finished jobs are told as comfyui-api tells them."""
    answer = interrupt(server, "nobody")
    assert (answer.status_code, answer.json()["interrupted"]) == (404, "failed")
    server.prompt(picture(), id="over").raise_for_status()
    assert interrupt(server, "over").status_code == 404


def test_second_cancel_finds_nothing(server: LiveServer) -> None:
    """Cancelling twice is no error of the server's."""
    job = begin(server, "twice", slow(server.engine, 20))
    wait_phase(server, "twice", "running")
    assert interrupt(server, "twice").status_code == 200
    assert_error(job.result(5), 499, "cancelled")
    assert interrupt(server, "twice").status_code == 404


def test_cancelling_an_id_is_told_to_all_who_wait_for_it(server: LiveServer) -> None:
    """Who sent the same again waits for the same job, and is told the same."""
    graph = slow(server.engine, 20)
    jobs = [begin(server, "shared", graph) for _ in range(3)]
    wait_phase(server, "shared", "queued", "running")
    assert interrupt(server, "shared").status_code == 200
    # One that came only now would be a new job.
    wait_until("all are told", lambda: interrupt(server, "shared") and all(j.done() for j in jobs))
    for job in jobs:
        assert_error(job.result(10), 499, "cancelled")


def test_cancel_right_after_the_submit_leaves_nothing_running(server: LiveServer) -> None:
    """A cancel that races with the engine's own start of the prompt is not lost."""
    begun = time.monotonic()
    for index in range(5):
        job = begin(server, f"race-{index}", slow(server.engine, 20))
        interrupt(server, f"race-{index}")
        assert_error(job.result(10), 499, "cancelled")
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert time.monotonic() - begun < (5 if server.engine == "embedded" else 15)
