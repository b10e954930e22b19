"""The events of a job: all of them, in order, from where the listener left off."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
from behaviour.driving import assert_picture, begin, wait_phase
from behaviour.graphs import empty, fresh_color, node, picture, save, slow

if TYPE_CHECKING:
    from live import LiveServer

Event = tuple[int, str, dict[str, Any]]


def parse(text: str) -> list[Event]:
    """Read a stream of server-sent events."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return events


def follow(server: LiveServer, job_id: str, last: int = 0) -> list[Event]:
    """Read a job's events until the stream ends."""
    headers = {"Last-Event-ID": str(last)} if last else {}
    answer = server.get(f"/jobs/{job_id}/events", headers=headers)
    if answer.status_code == 204:  # the last event was seen
        return []
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse(answer.text)


def two_outputs(engine: str, first: int, second: int) -> dict[str, Any]:
    """Give a graph with an output that is done long before the other."""
    graph = slow(engine, 1.5, color=second)
    return {**graph, "0": empty(16, 16, first), "8": save("0", "early")}


def test_events_of_a_job_come_in_order_and_end_with_the_end(server: LiveServer) -> None:
    """Phases, progress that never goes back, outputs as nodes finish, and one final event."""
    first, second = fresh_color(), fresh_color()
    job = begin(server, "followed", two_outputs(server.engine, first, second))
    events = follow(server, "followed")
    assert job.result(60).status_code == 200
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    phases = [
        data["phase"] for _, kind, data in events if kind == "phase" and "position" not in data
    ]
    order = ["fetching", "running", "collecting", "delivering"]
    assert [phase for phase in phases if phase in order] == order
    overall = [data["overall_pct"] for _, kind, data in events if kind == "progress"]
    assert overall == sorted(overall)
    assert len(set(overall)) > 2
    kinds = [kind for _, kind, _ in events]
    assert kinds[-1] == "succeeded"
    assert sum(kind in {"succeeded", "failed", "cancelled"} for kind in kinds) == 1
    outputs = [data for _, kind, data in events if kind == "output"]
    assert {data["node_id"] for data in outputs} == {"8", "9"}
    assert {output["node_id"] for output in events[-1][2]["outputs"]} == {"8", "9"}


def test_outputs_are_told_before_the_job_is_over(server: LiveServer) -> None:
    """A listener sees the first output while the second is still being made."""
    color = fresh_color()
    graph = slow(server.engine, 3, color=color)
    graph["8"] = save("1" if server.engine == "embedded" else "b0", "early")
    job = begin(server, "early", graph)
    path = f"{server.url}/jobs/early/events"
    with httpx.stream("GET", path, timeout=60, trust_env=False) as answer:
        for line in answer.iter_lines():
            if line == "event: output":
                break
        assert server.get("/jobs/early").json()["status"] == "running"
    assert job.result(60).status_code == 200


def test_listener_resumes_where_it_left_off(server: LiveServer) -> None:
    """Last-Event-ID gives what came after, once and in order, during the job and after it."""
    job = begin(server, "resumed", slow(server.engine, 1.5))
    path = f"{server.url}/jobs/resumed/events"
    text = ""
    with httpx.stream("GET", path, timeout=60, trust_env=False) as answer:
        for part in answer.iter_text():
            text += part
            if text.count("\n\n") >= 3:
                break
    seen = parse(text[: text.rindex("\n\n")])
    rest = follow(server, "resumed", seen[-1][0])
    assert job.result(60).status_code == 200
    assert [seq for seq, _, _ in seen + rest] == list(range(1, rest[-1][0] + 1))
    assert rest[-1][1] == "succeeded"
    assert seen + rest == follow(server, "resumed")
    assert follow(server, "resumed", rest[-1][0]) == []


def test_many_listeners_see_the_same(server: LiveServer) -> None:
    """Twenty at once; one that leaves early disturbs nobody."""
    job = begin(server, "crowded", slow(server.engine, 1.0))
    told: list[list[Event]] = []
    threads = [
        threading.Thread(target=lambda: told.append(follow(server, "crowded"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    with httpx.stream("GET", f"{server.url}/jobs/crowded/events", trust_env=False) as left:
        next(left.iter_raw())
    for thread in threads:
        thread.join(60)
    assert job.result(60).status_code == 200
    assert len(told) == 20
    assert all(events == told[0] for events in told)


def test_events_of_jobs_that_fail_or_are_cancelled(server: LiveServer) -> None:
    """The last event carries the whole error."""
    server.prompt({"1": node("Nope")}, id="refused")
    events = follow(server, "refused")
    assert events[-1][1] == "failed"
    assert events[-1][2]["code"] == "invalid_workflow"
    job = begin(server, "stopped", slow(server.engine, 20))
    wait_phase(server, "stopped", "running")
    server.post("/interrupt", {"id": "stopped"})
    assert job.result(20).status_code == 499
    assert follow(server, "stopped")[-1][1] == "cancelled"


def test_job_is_known_after_its_end(server: LiveServer) -> None:
    """GET /jobs/{id} tells outputs, progress and times."""
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color), id="known/with slash"), color)
    job = server.get("/jobs/known/with slash").json()
    assert job["status"] == "succeeded"
    assert job["finished_at"] >= job["created_at"]
    assert [output["node_id"] for output in job["outputs"]] == ["9"]
    assert job["error"] is None
    assert job["position"] is None
    assert job["progress"]["overall_pct"] == 100
