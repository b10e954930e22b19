"""Jobs on RunPod's request API: that of `comfyfn serve --as runpod`, and production's shapes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import httpx
import pytest
from live import LiveServer
from worker import serving

from handler.engine.memory import PIXEL
from handler.errors import HandlerError, JobCancelled, PayloadTooLarge, ResultGone, TimedOut
from local_server.remote.base import Pace
from local_server.remote.download import Fetch
from local_server.remote.link import Link
from local_server.remote.result import save
from local_server.remote.runpod import RunpodRemote

PROGRESS = {"output": {"status": "running", "percent": 42.0}}
ENCODED = base64.b64encode(PIXEL).decode()


@pytest.fixture(scope="module")
def runpod(tmp_path_factory):
    """Give a server of the request API."""
    server = LiveServer(tmp_path_factory.mktemp("runpod"))
    server.options = ["--as", "runpod"]
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def remote_at(base):
    """Give a remote."""
    link = Link(base, {"Authorization": "Bearer k"}, pause_s=(0.01, 0.05))
    remote = RunpodRemote(link, Pace(0.02, 0.1))
    try:
        yield remote
    finally:
        await remote.close()


async def test_a_job_is_run_and_its_picture_brought(runpod, heard, plain, tmp_path):
    """From the queue to its result."""
    async with remote_at(f"{runpod.url}/v2/mine") as remote:
        result = await remote.run({"prompt": plain}, heard)
    (one,) = [one async for one in save(result, tmp_path, Fetch())]

    assert one.path == tmp_path / "x_00001_.png"
    assert one.facts["sha256"]
    assert heard.said[0] == "is sent"


async def test_an_error_is_the_worker_s_envelope(runpod, heard):
    """RunPod has `error` beside the rest of it."""
    graph = {"1": {"class_type": "Nope", "inputs": {}}}
    async with remote_at(f"{runpod.url}/v2/mine") as remote:
        with pytest.raises(HandlerError) as caught:
            await remote.run({"prompt": graph}, heard)
    assert caught.value.blame in {"caller", "image"}
    assert caught.value.code in {"invalid_workflow", "no_output_node"}


async def test_who_stops_waiting_stops_the_job(runpod, heard, slow):
    """That job: RunPod is told so, and its worker stops."""
    async with remote_at(f"{runpod.url}/v2/mine") as remote:
        task = asyncio.create_task(remote.run({"prompt": slow}, heard))
        async with asyncio.timeout(10):
            while not heard.kinds:
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with httpx.AsyncClient(base_url=runpod.url, trust_env=False) as client:
        async with asyncio.timeout(10):
            while (await client.get("/jobs?status=active")).json()["jobs"]:
                await asyncio.sleep(0.02)
        newest = (await client.get("/jobs?limit=1")).json()["jobs"][0]
    assert newest["status"] == "cancelled"


class Endpoint:
    """An endpoint whose job ends as told."""

    def __init__(self, *ends, run=(200, {"id": "j1", "status": "IN_QUEUE"}), chunks=()):
        self.ends, self.run, self.chunks, self.requests = list(ends), run, list(chunks), []

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        self.requests.append(path)
        if path == "/run":
            status, told = self.run
        elif path.startswith("/stream"):
            status, told = 200, {"status": "COMPLETED", "stream": self.chunks}
            self.chunks = []
        else:
            status, told = 200, self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        body = json.dumps(told).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def ran(endpoint, heard):
    """Run a job there."""
    async with (
        serving(endpoint) as client,
        remote_at(str(client.base_url).rstrip("/")) as remote,
    ):
        return await remote.run({"prompt": {}}, heard)


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        ({"status": "CANCELLED"}, JobCancelled, "cancelled at RunPod"),
        ({"status": "TIMED_OUT"}, TimedOut, "execution timeout"),
        ({"status": "FAILED", "error": "plain"}, HandlerError, "plain"),
        ({"status": "FAILED", "error": '{"error_message": "no luck"}'}, HandlerError, "no luck"),
        ({"status": "COMPLETED"}, ResultGone, "not kept"),
    ],
)
async def test_every_end_is_told_as_what_it_is(heard, end, kind, message):
    """An SDK's own text of an exception, too."""
    with pytest.raises(kind, match=message):
        await ran(
            Endpoint({"status": "IN_QUEUE"}, {"status": "IN_PROGRESS", **PROGRESS}, end), heard
        )
    assert "in the queue (a worker may have to boot)" in heard.said
    assert heard.shown[-1].data["overall_pct"] == 42.0


async def test_a_failed_job_has_its_envelope(heard):
    """As the SDK tears it apart."""
    end = {
        "status": "FAILED",
        "error": "no such class",
        "output": {"code": "invalid_workflow", "blame": "image", "node_id": "3", "hint": "h"},
    }
    with pytest.raises(HandlerError) as caught:
        await ran(Endpoint(end), heard)
    fault = caught.value
    assert (fault.message, fault.code, fault.node_id) == ("no such class", "invalid_workflow", "3")


async def test_an_endpoint_that_streams_gives_its_outputs_one_by_one(heard, tmp_path):
    """Aggregated in the result, or to be had of the stream alone; a failure's envelope as well."""
    items = [
        {"type": "output", "node_id": "2", "filename": "a.png", "data": ENCODED},
        {"type": "result", "id": "j", "outputs": [{"node_id": "2", "filename": "a.png"}]},
    ]
    chunks = [{"output": item} for item in items]
    aggregated = Endpoint({"status": "COMPLETED", "output": items})
    streamed = Endpoint({"status": "COMPLETED", "output": []}, chunks=chunks)
    for endpoint in (aggregated, streamed):
        result = await ran(endpoint, heard)
        (one,) = [one async for one in save(result, tmp_path, Fetch())]
        assert one.path.read_bytes() == PIXEL

    failed = [{"output": {"type": "failed", "code": "stalled", "blame": "platform"}}]
    with pytest.raises(HandlerError) as caught:
        await ran(Endpoint({"status": "FAILED", "error": "too quiet"}, chunks=failed), heard)
    assert (caught.value.code, caught.value.message) == ("stalled", "too quiet")


async def test_what_runpod_would_not_take_is_not_sent(heard):
    """Ten megabytes, and what to do."""
    async with remote_at("http://127.0.0.1:9") as remote:
        with pytest.raises(PayloadTooLarge, match=r"RunPod takes 10 MB") as caught:
            await remote.run({"prompt": {"1": "x" * 10_000_000}}, heard)
    assert "by URL" in caught.value.hint


async def test_a_job_that_may_have_begun_is_not_sent_again(heard):
    """RunPod has no key that would make two of them one."""
    endpoint = Endpoint({"status": "COMPLETED"}, run=(500, {"error": "?"}))
    with pytest.raises(HandlerError, match="500"):
        await ran(endpoint, heard)
    assert endpoint.requests == ["/run"]
