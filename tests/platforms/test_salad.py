"""A worker on Salad as a process, between doubles of what is around it there."""

from __future__ import annotations

import base64
import json
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from behaviour.graphs import picture
from live import COMFY_HOME
from platforms.salad_double import ImdsDouble, SaladServer, WorkerStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}


def through(kind: str, **inputs: Any) -> dict[str, Any]:
    """Give a graph with one node of the faults in its middle."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": SIZE},
        "2": {"class_type": kind, "inputs": {"image": ["1", 0], **inputs}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


def sleeping(seconds: float, steps: int = 200) -> dict[str, Any]:
    """Give a graph that takes its time, and heeds interrupts."""
    return {"prompt": through("TestSleep", seconds=seconds, steps=steps)}


def until(true: Callable[[], Any], limit_s: float = 15.0) -> None:
    """Wait until something is so."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < limit_s, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def imds() -> Iterator[ImdsDouble]:
    """Give the metadata service."""
    double = ImdsDouble()
    yield double
    double.close()


@pytest.fixture(scope="module")
def server(imds: ImdsDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaladServer]:
    """Give a worker for the tests that leave it as it was."""
    home = tmp_path_factory.mktemp("salad")
    nobody = "http://127.0.0.1:9"  # the metadata service would refuse what comes through a proxy
    running = SaladServer(
        home,
        imds,
        WARMUP_PROMPT_JSON=json.dumps(through("TestSleep", seconds=1, steps=10)),
        HTTP_PROXY=nobody,
        ALL_PROXY=nobody,
    )
    try:
        yield running.start()
    finally:
        if running.process is not None:
            running.stop()


def test_a_warmup_costs_nothing(server: SaladServer, imds: ImdsDouble) -> None:
    """The instance is told to be idle while it warms up, which took a second."""
    assert imds.costs in ([0], [0, 0])
    assert server.get("/health").json()["boot"]["phases"]["warmup_s"] > 0.9


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_both_families_of_addresses_reach_it(server: SaladServer, host: str) -> None:
    """The gateway comes over IPv6, the queue worker over either."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    told = WorkerStandIn(server.port, host=host).send({"prompt": picture()})
    assert (told.outcome, told.status) == ("completed", 200)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.port}/prompt"
    answer = httpx.post(url, json={"prompt": picture()}, trust_env=False, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["stats"]["adapter"] == "salad"
    assert answer.json()["stats"]["instance"] == "i-1"


def test_the_deletion_cost_follows_the_jobs_in_hand(server: SaladServer, imds: ImdsDouble) -> None:
    """Told on changes alone, and back to 0."""
    until(lambda: imds.costs[-1:] == [0])
    before = len(imds.costs)
    first = server.worker.begin(sleeping(1.5))
    until(lambda: imds.costs[before:] == [1])
    second = server.worker.begin(sleeping(0.3))
    until(lambda: imds.costs[before:] == [1, 2])
    assert first.wait() is not None
    assert second.wait() is not None
    until(lambda: imds.costs[-1] == 0)
    assert imds.costs[before:] in ([1, 2, 1, 0], [1, 2, 0])


def test_probes_are_answered_while_a_job_runs(server: SaladServer) -> None:
    """Each within a second: a readiness probe waits no longer."""
    job = server.worker.begin(sleeping(0.8, steps=0))
    until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
    for path in ("/health/startup", "/health/live", "/health/ready", "/health", "/ready"):
        begun = time.monotonic()
        assert server.get(path).status_code == 200
        assert time.monotonic() - begun < 1
    assert job.wait() is not None


BAD = {"prompt": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}
NOISE = {"width": 2200, "height": 2200, "seed": 4}
LARGE = {
    "prompt": {
        "1": {"class_type": "TestNoise", "inputs": NOISE},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
}
FAULTS: dict[str, tuple[Any, str, int, str]] = {
    "no JSON": (b"{", "completed", 400, "invalid_payload"),
    "no graph": ({"prompt": 1}, "completed", 400, "invalid_workflow"),
    "no such node": (BAD, "completed", 400, "invalid_workflow"),
    "no such endpoint": ({"workflow": "nope", "input": {}}, "completed", 404, "unknown_workflow"),
    "a node raises": (
        {"prompt": through("TestRaise", message="no")},
        "completed",
        422,
        "execution_error",
    ),
    "too large": (
        LARGE,
        "completed",
        422,
        "result_too_large",
    ),
    "too little memory": (
        {"prompt": through("TestOutOfMemory")},
        "rejected",
        500,
        "execution_error",
    ),
    "late": ({**sleeping(30), "timeouts": {"total_s": 0.3}}, "rejected", 504, "timed_out"),
    "the engine dies": (
        {"prompt": through("TestExit", code=3)},
        "rejected",
        502,
        "engine_died",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_another_try_cannot_mend_is_final(server: SaladServer, name: str) -> None:
    """4xx ends a job with its error, 5xx has it sent again; the body is the one error envelope."""
    given, outcome, status, code = FAULTS[name]
    told = server.worker.send(given)
    assert (told.outcome, told.status, told.body["code"]) == (outcome, status, code)
    assert {"error", "code", "blame", "retryable", "statusCode"} <= told.body.keys()
    server.wait_for("/ready")


def test_a_job_that_a_full_worker_refuses_is_tried_again(imds: ImdsDouble, tmp_path: Any) -> None:
    """429 would be as good as 5xx there; it is told as 503."""
    server = SaladServer(tmp_path, imds, MAX_QUEUE_DEPTH="1", ENGINE_PREFETCH="1").start()
    try:
        jobs = [server.worker.begin(sleeping(20))]
        until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
        jobs.append(server.worker.begin(sleeping(20)))
        until(lambda: server.get("/health").json()["jobs"]["waiting"] == 1)
        told = server.worker.send({"prompt": picture()})
        assert (told.outcome, told.status, told.body["code"]) == ("rejected", 503, "queue_full")
        for job in jobs:
            job.drop()
        assert [job.wait() for job in jobs] == [None, None]
    finally:
        server.stop()


def test_a_job_that_is_cancelled_here_is_over(server: SaladServer) -> None:
    """By `POST /jobs/{id}/cancel`: somebody wanted that."""
    job = server.worker.begin({**sleeping(30), "id": "stop-me"})
    until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
    assert server.post("/jobs/stop-me/cancel", {}).is_success
    told = job.wait()
    assert told is not None
    assert (told.outcome, told.status, told.body["code"]) == ("completed", 499, "cancelled")


def test_a_worker_that_goes_away_stops_its_job(server: SaladServer) -> None:
    """The engine is interrupted at once; the same job sent again is run anew."""

    def interrupts() -> int:
        state = httpx.get(f"{server.engine_url}/_test/state", trust_env=False).json()
        return int(state["interrupts"])

    before = interrupts()
    given = sleeping(30)
    job = server.worker.begin(given, "again")
    until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
    job.drop()
    assert job.wait() is None
    until(lambda: interrupts() == before + 1)
    until(lambda: server.get("/health").json()["jobs"] == {"waiting": 0, "running": 0})
    once_more = server.worker.begin(given, "again")
    until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
    once_more.drop()
    assert once_more.wait() is None
    until(lambda: server.get("/health").json()["jobs"] == {"waiting": 0, "running": 0})


def test_a_job_that_is_brought_again_is_not_run_again(server: SaladServer) -> None:
    """Its answer is the first run's: the queue did not hear of that."""
    first, second = (server.worker.send({"prompt": picture(color=5)}, "twice") for _ in range(2))
    assert first.body["id"] == second.body["id"]
    assert first.body["images"] == second.body["images"]
    other = server.worker.send({"prompt": picture(color=6)}, "twice")
    assert (other.outcome, other.status) == ("completed", 409)


def test_a_job_that_is_sent_again_after_5xx_is_run_again(server: SaladServer) -> None:
    """Also where the fault lasts on this node: told from memory, each try would be used up."""

    def runs() -> int:
        state = httpx.get(f"{server.engine_url}/_test/state", trust_env=False).json()
        return int(state["prompts_run"])

    before = runs()
    for _ in range(2):
        told = server.worker.send({"prompt": through("TestOutOfMemory")}, "oom")
        assert (told.outcome, told.status) == ("rejected", 500)
    assert runs() == before + 2


def test_all_forms_of_a_call_are_taken(server: SaladServer) -> None:
    """worker-comfyui's, as an object and as a text, answered in its form."""
    for given in ({"workflow": picture()}, json.dumps({"workflow": picture()})):
        told = server.worker.send(given)
        assert told.status == 200
        (image,) = told.body["images"]
        assert image["type"] == "base64"
        assert base64.b64decode(image["data"])[:4] == b"\x89PNG"
    asked_async = server.worker.send({"prompt": picture(), "webhook_v2": "http://127.0.0.1:9/x"})
    assert asked_async.status in (200, 400)


def test_what_the_queue_cannot_bring_goes_to_the_operators_storage(
    imds: ImdsDouble, tmp_path: Any
) -> None:
    """Over 10 MB: a file of OUTPUT_STORAGE in place of base64; the gateway has no such limit."""
    folder = tmp_path / "store"
    folder.mkdir()
    server = SaladServer(
        tmp_path / "home", imds, OUTPUT_STORAGE=json.dumps({"volume": {"path": str(folder)}})
    ).start()
    try:
        told = server.worker.send(LARGE)
        assert (told.outcome, told.status) == ("completed", 200)
        assert any(path.is_file() and path.stat().st_size > 9e6 for path in folder.rglob("*"))
        assert server.post("/prompt", LARGE).status_code == 200
    finally:
        server.stop()


def test_readiness_follows_the_boot_and_the_stop(imds: ImdsDouble, tmp_path: Any) -> None:
    """Not started, ready, not ready while the jobs in hand end; alive all the time."""
    server = SaladServer(tmp_path, imds, COMFY_ARGS="--test-boot-seconds 4").start(ready=False)
    try:
        seen = [
            (p, server.get(p).status_code) for p in ("/health/startup", "/ready", "/health/live")
        ]
        assert seen == [("/health/startup", 503), ("/ready", 503), ("/health/live", 200)]
        server.wait_for("/ready")
        server.wait_for("/health/startup")
        job = server.worker.begin(sleeping(1.5))
        until(lambda: server.get("/health").json()["jobs"]["running"] == 1)
        stopped: list[int] = []
        stopping = threading.Thread(target=lambda: stopped.append(server.stop(signal.SIGTERM)))
        stopping.start()
        server.wait_for("/ready", status=503)
        assert server.get("/health/startup").status_code == 200
        assert server.get("/health/live").status_code == 200
        told = job.wait()
        assert told is not None
        assert told.status == 200
        stopping.join()
        assert stopped == [0]
    finally:
        server.stop()


@pytest.mark.comfyui
@pytest.mark.timeout(180)
def test_a_real_comfyui_works_behind_it(imds: ImdsDouble, tmp_path: Any) -> None:
    """A picture through the queue's route, and a fault of the graph."""
    assert COMFY_HOME
    server = SaladServer(tmp_path, imds, "comfyui").start()
    try:
        told = server.worker.send({"prompt": picture()})
        assert (told.outcome, told.status) == ("completed", 200)
        assert told.body["stats"]["engine"]["kind"] == "comfyui"
        assert server.worker.send(BAD).status == 400
    finally:
        assert server.stop() == 0
