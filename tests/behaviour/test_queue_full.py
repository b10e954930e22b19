"""A full queue: refused with a time to come back, and the balancer is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from behaviour.driving import assert_error, assert_picture, begin, wait_phase
from behaviour.graphs import fresh_color, slow

if TYPE_CHECKING:
    from live import LiveServer


def test_full_queue_refuses_and_says_when_to_come_back(start_server) -> None:
    """Jobs in line see their places; one more is refused with 429; later all is well again."""
    server = start_server(MAX_QUEUE_DEPTH="2")
    colors = [fresh_color() for _ in range(3)]
    jobs = []
    for index, color in enumerate(colors):
        graph = slow("embedded", 0.1 if index else 2.5, color=color)
        jobs.append(begin(server, f"q{index}", graph))
        wait_phase(server, f"q{index}", "queued" if index else "running")
    positions = [server.get(f"/jobs/q{index}").json()["position"] for index in range(3)]
    assert positions == [0, 1, 2]
    refused = server.prompt(slow("embedded", 1))
    body = assert_error(refused, 429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert (body["retryable"], body["blame"]) == (True, "platform")
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()["phase"]) == (503, "overloaded")
    assert server.get("/health").status_code == 200
    assert server.get("/health").json()["jobs"] == {"waiting": 2, "running": 1}
    for job, color in zip(jobs, colors, strict=True):
        assert_picture(job.result(30), color)
    assert server.get("/ready").status_code == 200
    assert server.get("/jobs/q0").json()["position"] is None


def test_cancelled_job_makes_room(start_server) -> None:
    """A place in the queue is free as soon as its job is cancelled."""
    server = start_server(MAX_QUEUE_DEPTH="1")
    running = begin(server, "runs", slow("embedded", 30))
    wait_phase(server, "runs", "running")
    waiting = begin(server, "waits", slow("embedded", 30))
    wait_phase(server, "waits", "queued")
    assert server.prompt(slow("embedded", 1)).status_code == 429
    for job_id, job in (("waits", waiting), ("runs", running)):
        assert server.post("/interrupt", {"id": job_id}).status_code == 200
        assert_error(job.result(5), 499, "cancelled")
    color = fresh_color()
    assert_picture(server.prompt(slow("embedded", 0.1, color=color)), color)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_crowd_is_served_in_full(server: LiveServer) -> None:
    """Twenty-five jobs at once all get their own picture."""
    colors = [fresh_color() for _ in range(25)]
    jobs = [begin(server, f"n{i}", slow("embedded", 0.02, color=c)) for i, c in enumerate(colors)]
    for job, color in zip(jobs, colors, strict=True):
        assert_picture(job.result(30), color)
