"""Many jobs in a row: disk, memory and the engine's history stay as they were."""

from __future__ import annotations

import sys

import httpx
import pytest
from behaviour.driving import assert_no_files_left, assert_picture, wait_until
from behaviour.graphs import fault, fresh_color, node, picture
from live import LiveServer, rss_mb, walk

JOBS = {"embedded": 500, "comfyui": 24}
GROWTH_MB = 20


def with_preview(color: int) -> dict:
    """Give a graph that saves and previews."""
    return {**picture(32, 32, color), "8": node("PreviewImage", images=["1", 0])}


def history(server: LiveServer) -> int:
    """Count the engine's history entries."""
    return len(httpx.get(f"{server.engine_url}/history", trust_env=False).json())


def temp_files(server: LiveServer) -> int:
    """Count the engine's temporary pictures, which lie below our scratch folder."""
    return len(walk(server.work, ".png"))


@pytest.mark.timeout(240)
def test_many_jobs_leave_disk_memory_and_history_flat(start_server, engine: str) -> None:
    """Nothing grows with the number of jobs."""
    server = start_server(engine)
    pids = (server.process.pid, server.engine_pid())
    client = httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=60)
    with client:

        def run(count: int) -> None:
            for _ in range(count):
                color = fresh_color()
                body = {"prompt": with_preview(color)}
                assert_picture(client.post("/prompt", json=body), color, (32, 32))

        run(JOBS[engine] // 5)
        before = [rss_mb(pid) for pid in pids]
        run(JOBS[engine])
        growth = [rss_mb(pid) - mb for pid, mb in zip(pids, before, strict=True)]
    sys.stdout.write(f"{engine}: server {growth[0]:+.1f} MiB, engine {growth[1]:+.1f} MiB\n")
    assert_no_files_left(server)
    assert temp_files(server) == 0
    wait_until("history is forgotten", lambda: history(server) <= 1, 5)
    assert growth[0] < GROWTH_MB
    if engine == "embedded":
        assert growth[1] < GROWTH_MB


def test_large_jobs_leave_no_graphs_behind(start_server) -> None:
    """Records stay for an hour; graphs and texts of megabytes do not."""
    server = start_server("embedded")
    pid, long = server.process.pid, "x" * 4_000_000

    def run(count: int) -> None:
        for _ in range(count):
            good = {**picture(), "t": node("TestText", text=long)}
            good["9"]["_meta"] = {"title": long}
            assert server.prompt(good).status_code == 200
            raises = {**fault("TestRaise", message="x"), "t": node("TestText", text=long)}
            assert server.prompt(raises).status_code == 500
            bad = {**picture(), "1": node("Nope", text=long)}
            assert server.prompt(bad).status_code == 400

    run(4)
    before = rss_mb(pid)
    run(8)
    assert rss_mb(pid) - before < 40


def test_the_same_payload_three_times_gives_three_results(server: LiveServer) -> None:
    """What the engine has cached is delivered all the same, previews as well."""
    color = fresh_color()
    payload = with_preview(color)
    for _ in range(3):
        answer = server.prompt(payload, include_temp=True)
        assert_picture(answer, color, (32, 32))
        nodes = [output["node_id"] for output in answer.json()["outputs"]]
        assert sorted(nodes) == ["8", "9"]
        assert len(answer.json()["images"]) == 2
    assert_no_files_left(server)
