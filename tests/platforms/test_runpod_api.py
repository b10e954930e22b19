"""`comfyfn serve --as runpod`: RunPod's request API, asked by RunPod's own client and by httpx."""

from __future__ import annotations

import base64
import http.server
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from contract.graphs import encoded, inverted, photo
from live import LiveServer, free_port
from platforms.runpod_client import client as new_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from platforms.runpod_client import Client

SAVED = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}
GRAPH = {"1": EMPTY, "3": {**SAVED, "inputs": {**SAVED["inputs"], "images": ["1", 0]}}}
UNKNOWN = "00000000-0000-0000-0000-000000000000-u1"


def sleeps(seconds: float) -> dict[str, Any]:
    inputs = {"image": ["1", 0], "seconds": seconds, "steps": max(1, int(seconds * 20))}
    return {"1": EMPTY, "2": {"class_type": "TestSleep", "inputs": inputs}, "3": SAVED}


def noisy(width: int) -> dict[str, Any]:
    size = {"width": width, "height": width, "batch_size": 1, "color": 0x808080}
    inputs = {"image": ["1", 0], "seed": 7, "strength": 0.3}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "ImageAddNoise", "inputs": inputs},
        "3": SAVED,
    }


class Mine(LiveServer):
    """The server, and its API below the name of an endpoint."""

    def __init__(self, home: Path, **env: str) -> None:
        super().__init__(home, **env)
        self.options = ["--as", "runpod"]
        self.api = "/v2/mine"

    def run(self, graph: dict[str, Any], **keys: Any) -> str:
        """Have a job queued; give its id."""
        answer = self.post(f"{self.api}/run", {"input": {"prompt": graph}, **keys})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """Ask how a job is."""
        answer = self.get(f"{self.api}/status/{job_id}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def until(self, job_id: str, *states: str, limit_s: float = 20) -> dict[str, Any]:
        """Wait until a job is in a state."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            told = self.status(job_id)
            if told["status"] in states:
                return told
            time.sleep(0.02)
        raise AssertionError(f"{job_id} is {told}")

    def over(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end."""
        return self.until(job_id, "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mine]:
    """Give a server whose callers' URLs may lead to 127.0.0.1."""
    running = Mine(tmp_path_factory.mktemp("api"), URL_ALLOW_HOSTS="127.0.0.1")
    try:
        yield running.start()
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def sdk(server: Mine) -> Iterator[Client]:
    """Give RunPod's client of it."""
    with new_client(f"{server.url}/v2") as calls:
        yield calls


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted, and gives a picture once it is let."""

    posts: list[Any]
    pictures = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200 if type(self).pictures else 404)
        self.end_headers()
        if type(self).pictures:
            self.wfile.write(encoded(photo()))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    """Give the URL of a server of the caller's, and what came there."""
    kind = type("OneHook", (Hook,), {"posts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/hook", kind
        finally:
            running.shutdown()
            thread.join()


# -- what RunPod's client asks for ----------------------------------------------------------------


def test_the_client_runs_a_job_and_waits_for_it(sdk: Client, server: Mine) -> None:
    """Its output is what POST /prompt answers."""
    job_id = sdk("run", {"prompt": GRAPH})
    output = sdk("job.output", job_id, timeout=20)

    assert sdk("job.status", job_id) == "COMPLETED"
    own = server.prompt(GRAPH).json()
    assert output.keys() == own.keys()
    assert base64.b64decode(output["images"][0])[:8] == b"\x89PNG\r\n\x1a\n"
    assert output["stats"]["adapter"] == "runpod"


def test_the_client_runs_a_job_in_one_call(sdk: Client) -> None:
    """Also in worker-comfyui's form, answered in it."""
    assert sdk("run_sync", {"prompt": GRAPH})["images"]
    theirs = sdk("run_sync", {"input": {"workflow": GRAPH}})

    assert set(theirs) == {"images"}
    assert theirs["images"][0]["type"] == "base64"


def test_the_client_is_streamed_what_nodes_saved(tmp_path: Path) -> None:
    """One item a file, as soon as its node has ended, and the answer without them last."""
    saved = {**SAVED, "inputs": {**SAVED["inputs"], "images": ["1", 0], "filename_prefix": "y"}}
    server = Mine(tmp_path, RUNPOD_STREAM="true")
    try:
        with new_client(f"{server.start().url}/v2") as sdk:
            job_id = sdk("run", {"prompt": {"4": saved, **sleeps(1.5)}})
            early = server.get(f"/v2/mine/stream/{job_id}").json()
            while not early["stream"]:
                time.sleep(0.02)
                early = server.get(f"/v2/mine/stream/{job_id}").json()
            items = sdk("job.stream", job_id)
            failed = server.post("/runsync", {"input": {"prompt": {}}}).json()
            told = server.status(job_id)
    finally:
        server.stop()

    first = early["stream"][0]["output"]
    assert (early["status"], first["node_id"]) == ("IN_PROGRESS", "4")
    assert base64.b64decode(first["data"])[:4] == b"\x89PNG"
    assert [(item["type"], item.get("node_id")) for item in items] == [
        ("output", "3"),
        ("result", None),
    ]
    assert told["output"] == [first, *items]
    assert (failed["status"], "output" in failed) == ("FAILED", False)
    assert "filename_prefix" in failed["error"]


def test_a_worker_that_does_not_stream_has_no_items(sdk: Client) -> None:
    """RUNPOD_STREAM is not set: the client's loop ends with the job."""
    assert sdk("job.stream", sdk("run", {"prompt": GRAPH})) == []


def test_the_client_cancels_a_job_that_runs(sdk: Client, server: Mine) -> None:
    """The engine is interrupted, and free for the next one."""
    job_id = sdk("run", {"prompt": sleeps(60)})
    server.until(job_id, "IN_PROGRESS")

    assert sdk("job.cancel", job_id) == {"id": job_id, "status": "CANCELLED"}
    assert sdk("job.status", job_id) == "CANCELLED"
    assert sdk("run_sync", {"prompt": GRAPH}, timeout=20)["images"]


def test_the_client_purges_the_queue(sdk: Client, server: Mine) -> None:
    """What waits is gone; what runs goes on."""
    runs = sdk("run", {"prompt": sleeps(60)})
    waiting = [sdk("run", {"prompt": GRAPH}) for _ in range(2)]
    server.until(runs, "IN_PROGRESS")
    health = sdk("health")

    assert (health["jobs"]["inProgress"], health["jobs"]["inQueue"]) == (1, 2)
    assert (health["workers"]["running"], health["workers"]["idle"]) == (1, 0)
    assert [server.status(job_id) for job_id in waiting] == [
        {"id": job_id, "status": "IN_QUEUE"} for job_id in waiting
    ]
    assert sdk("purge_queue") == {"removed": 2, "status": "completed"}
    assert {server.status(job_id)["status"] for job_id in waiting} == {"CANCELLED"}
    assert sdk("job.status", runs) == "IN_PROGRESS"
    assert sdk("job.cancel", runs)["status"] == "CANCELLED"


# -- its shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["", "/v2/any-name"])
def test_answers_have_productions_shape(server: Mine, api: str) -> None:
    """With and without the name of an endpoint, whatever the key."""
    key = {"Authorization": "Bearer rpa_x"}
    ran = server.post(f"{api}/run", {"input": {"prompt": GRAPH}}, headers=key).json()
    assert ran == {"id": ran["id"], "status": "IN_QUEUE"}
    done = server.over(ran["id"])
    assert set(done) == {"id", "status", "delayTime", "executionTime", "output"}
    assert done["status"] == "COMPLETED"
    assert isinstance(done["delayTime"], int)
    assert 0 <= done["executionTime"] < 20_000

    synced = server.post(f"{api}/runsync", {"input": {"prompt": GRAPH}}, headers=key).json()
    assert set(synced) == set(done)
    assert synced["id"].startswith("sync-")
    assert server.get(f"{api}/status/{synced['id']}").json() == synced
    assert server.post(f"{api}/status/{synced['id']}", None).json() == synced


def test_a_failure_is_the_envelope_with_its_text_beside(server: Mine) -> None:
    """As the SDK splits what a worker gives back."""
    own = server.prompt({}).json()
    told = server.post("/runsync", {"input": {"prompt": {}}}).json()

    assert told["status"] == "FAILED"
    assert told["error"] == own.pop("error")
    for envelope in (own, told["output"]):
        envelope.pop("stats")
    assert told["output"] == own


def test_an_input_that_is_none_fails_as_a_job(server: Mine) -> None:
    """The worker tells; the API only wants an input."""
    told = server.post("/runsync", {"input": {}}).json()
    assert (told["status"], told["output"]["code"]) == ("FAILED", "invalid_payload")
    half = {"input": {"prompt": GRAPH}, "s3Config": {"bucketName": "b"}}
    told = server.post("/runsync", half).json()
    assert (told["status"], told["output"]["location"]) == ("FAILED", "s3Config")
    for body in ({}, {"input": None}, [1], {"input": {"prompt": GRAPH}, "policy": {"ttl": 5}}):
        answer = server.post("/run", body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_payload")


def test_runsync_waits_no_longer_than_it_is_told(server: Mine) -> None:
    """Then the job goes on, and its result is to be asked for."""
    begun = time.monotonic()
    told = server.post("/runsync?wait=1000", {"input": {"prompt": sleeps(2.2)}}).json()

    assert 1 <= time.monotonic() - begun < 2
    assert told["status"] == "IN_PROGRESS"
    reports = []
    while (told := server.status(told["id"]))["status"] == "IN_PROGRESS":
        reports += [told["output"]] if "output" in told else []
        time.sleep(0.05)
    assert reports[-1]["status"] == "running"
    assert 0 < reports[-1]["percent"] < 100
    assert told["status"] == "COMPLETED"
    assert server.post("/runsync?wait=soon", {"input": {}}).status_code == 400


@pytest.mark.parametrize("verb", ["status", "stream", "cancel", "retry"])
def test_an_unknown_job_is_404(server: Mine, verb: str) -> None:
    """Every verb that names one."""
    call = server.get if verb in ("status", "stream") else server.post
    answer = call(f"/v2/mine/{verb}/{UNKNOWN}", **({} if call == server.get else {"body": None}))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_requests_over_runpods_limits_are_refused(server: Mine) -> None:
    """10 MB by /run, 20 MB by /runsync."""
    padded = {"input": {"prompt": GRAPH, "pad": "x" * (11 << 20)}}

    assert server.post("/run", padded).status_code == 413
    assert server.post("/runsync", padded).json()["status"] == "COMPLETED"
    padded["input"]["pad"] *= 2
    answer = server.post("/runsync", padded)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "20 MB" in answer.json()["hint"]


def test_results_over_runpods_limits_are_a_clear_failure(server: Mine) -> None:
    """By /run; /runsync takes twice as much."""
    job_id = server.run(noisy(1800))
    synced = server.post("/runsync", {"input": {"prompt": noisy(1800)}}).json()

    assert server.over(job_id)["output"]["code"] == "result_too_large"
    assert len(synced["output"]["images"][0]) > 10_000_000


def test_execution_timeout_ends_a_job(server: Mine) -> None:
    """The worker ends it just before RunPod would, and says why."""
    begun = time.monotonic()
    job_id = server.run(sleeps(60), policy={"executionTimeout": 5000})
    told = server.over(job_id)

    assert time.monotonic() - begun < 8
    assert (told["status"], told["output"]["code"]) == ("FAILED", "timed_out")
    assert told["executionTime"] <= 5000


def test_a_failed_job_is_tried_again(server: Mine, hook: tuple[str, type[Hook]]) -> None:
    """Under the same id, from what was sent; the earlier output is gone."""
    url, source = hook
    job_id = server.run(inverted(url))
    assert server.over(job_id)["output"]["code"] == "input_failed"
    before = server.get("/v2/mine/health").json()["jobs"]["retried"]

    source.pictures = True
    answer = server.post(f"/retry/{job_id}", None).json()
    assert answer == {"id": job_id, "status": "IN_QUEUE"}
    assert server.over(job_id)["output"]["images"]
    assert server.get("/v2/mine/health").json()["jobs"]["retried"] == before + 1
    again = server.post(f"/retry/{job_id}", None)
    assert (again.status_code, again.json()["code"]) == (400, "invalid_payload")


def test_a_webhook_is_told_the_end(server: Mine, hook: tuple[str, type[Hook]]) -> None:
    """What /status answers; where it may not lead is told at once."""
    url, receiver = hook
    job_id = server.run(GRAPH, webhook=url)
    told = server.over(job_id)
    for _ in range(200):
        if receiver.posts:
            break
        time.sleep(0.02)

    assert receiver.posts == [told]
    refused = server.post("/run", {"input": {"prompt": GRAPH}, "webhook": "http://10.0.0.1/x"})
    assert (refused.status_code, refused.json()["code"]) == (400, "url_not_allowed")


def test_both_healths_are_told_on_the_plain_path(server: Mine) -> None:
    """RunPod's alone below the endpoint."""
    theirs = server.get("/v2/mine/health").json()
    both = server.get("/health").json()

    assert set(theirs) == {"jobs", "workers"}
    assert set(theirs["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert theirs["workers"] == {
        "idle": 1,
        "initializing": 0,
        "ready": 1,
        "running": 0,
        "throttled": 0,
        "unhealthy": 0,
    }
    assert both["workers"] == theirs["workers"]
    assert both["jobs"] == {**theirs["jobs"], "waiting": 0, "running": 0}
    assert (both["status"], both["phase"]) == ("healthy", "ready")


# -- its life ------------------------------------------------------------------------------------


def test_jobs_outlive_the_server(tmp_path: Path) -> None:
    """Sent during the boot, handed out when it is over, and again after a restart."""
    probed = free_port()
    warmup = json.dumps(sleeps(1))
    server = Mine(
        tmp_path, DRAIN_TIMEOUT_S="0.2", PORT_HEALTH=str(probed), WARMUP_PROMPT_JSON=warmup
    )
    try:
        server.start(ready=False)
        done = server.run(GRAPH)
        assert server.status(done) == {"id": done, "status": "IN_QUEUE"}
        assert server.get("/v2/mine/health").json()["workers"]["initializing"] == 1
        assert server.get("/ping").status_code == 204
        result = server.over(done)
        assert result["status"] == "COMPLETED"
        ping = httpx.get(f"http://127.0.0.1:{probed}/ping", trust_env=False)
        assert (ping.status_code, ping.json()["status"]) == (200, "ready")
        broken_off, waited = server.run(sleeps(1.5)), server.run(GRAPH)
        server.until(broken_off, "IN_PROGRESS")
        assert server.stop(signal.SIGTERM) == 0

        server.start()
        assert server.status(done) == result
        assert server.over(broken_off)["status"] == "COMPLETED"
        assert server.over(waited)["status"] == "COMPLETED"
        assert server.get("/v2/mine/health").json()["jobs"]["completed"] == 2
    finally:
        server.stop()
