"""Jobs on servers that speak our HTTP API, or comfyui-api's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import httpx
import pytest
from live import live_server
from PIL import Image
from platforms.cutting_proxy import cutting
from worker import serving, until

from handler.engine.memory import PIXEL
from handler.errors import HandlerError
from local_server.remote.base import Pace
from local_server.remote.download import Fetch
from local_server.remote.http import HttpRemote
from local_server.remote.link import Link
from local_server.remote.result import save

FAST = {"pause_s": (0.01, 0.1)}


@contextlib.asynccontextmanager
async def remote_of(url, **options):
    """Give a remote and what fetches for it."""
    link = Link(url, **{**FAST, **options})
    try:
        yield HttpRemote(link, Pace(0.02, 0.1)), Fetch(link)
    finally:
        await link.close()


async def gone(server, job_id):
    """Wait until a job of a server is cancelled."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        async with asyncio.timeout(10):
            while (await client.get(f"/jobs/{job_id}")).json()["status"] != "cancelled":
                await asyncio.sleep(0.02)


async def running(server):
    """Wait until a server runs a job; give its id."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        async with asyncio.timeout(10):
            while True:
                jobs = (await client.get("/jobs?status=running")).json()["jobs"]
                if jobs:
                    return jobs[0]["id"]
                await asyncio.sleep(0.02)


async def test_a_job_is_followed_and_its_picture_brought(server, heard, brief, tmp_path):
    """Phases and steps are told on the way; the name is without the job's id."""
    async with remote_of(server.url) as (remote, fetch):
        result = await remote.run({"prompt": brief}, heard)
        (one,) = [one async for one in save(result, tmp_path, fetch)]

    assert one.path == tmp_path / "x_00001_.png"
    assert one.title == "the picture"
    with Image.open(one.path) as image:
        assert image.size == (8, 8)
    assert {"phase", "progress"} <= heard.kinds


async def test_events_go_on_where_the_connection_broke(server, heard, brief, tmp_path):
    """By the id of the last one: none is shown twice, none is left out."""
    with cutting(server.port) as proxy:
        proxy.cuts = [("/events", 900), ("/events", 600)]
        async with remote_of(proxy.url) as (remote, fetch):
            result = await remote.run({"prompt": brief}, heard)
            assert [one async for one in save(result, tmp_path, fetch)]
        asked = [head for head in proxy.requests if "/events" in head.split("\r\n")[0]]

    assert proxy.cuts == []
    assert len(asked) >= 3
    assert ["last-event-id" in head.lower() for head in asked[:3]] == [False, True, True]
    shown = [(event.type, event.data) for event in heard.shown]
    told = server.get(f"/jobs/{result.job_id}/events").text
    phases = [data["phase"] for kind, data in shown if kind == "phase"]
    assert phases == list(dict.fromkeys(phases))
    assert all(f'"phase":"{phase}"' in told for phase in phases)
    steps = [data["overall_pct"] for kind, data in shown if kind == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 100.0


async def test_a_download_goes_on_where_the_connection_broke(server, heard, noisy, tmp_path):
    """By a range, and only while it is the same file."""
    with cutting(server.port) as proxy:
        proxy.cuts = [("/outputs/", 100_000), ("/outputs/", 50_000)]
        async with remote_of(proxy.url) as (remote, fetch):
            result = await remote.run({"prompt": noisy}, heard)
            (one,) = [one async for one in save(result, tmp_path, fetch)]
        asked = [head.lower() for head in proxy.requests if "/outputs/" in head]

    assert proxy.cuts == []
    assert ["range: bytes=" in head and "if-range" in head for head in asked] == [False, True, True]
    assert one.path.stat().st_size == one.facts["bytes"]


async def test_a_request_without_an_answer_is_sent_again_and_is_one_job(server, heard, plain):
    """By its key."""
    before = server.get("/jobs?limit=200").json()["jobs"]
    with cutting(server.port) as proxy:
        proxy.cuts = [("POST /prompt", 0), ("POST /prompt", 20)]
        async with remote_of(proxy.url) as (remote, _):
            result = await remote.run({"prompt": plain}, heard)
        sent = [head for head in proxy.requests if head.startswith("POST /prompt")]

    after = server.get("/jobs?limit=200").json()["jobs"]
    assert len(sent) == 3
    assert len(after) == len(before) + 1
    assert after[0]["id"] == result.job_id


async def test_who_stops_waiting_stops_the_job(server, heard, slow):
    """That job and no other."""
    async with remote_of(server.url) as (remote, _):
        task = asyncio.create_task(remote.run({"prompt": slow}, heard))
        job_id = await running(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await gone(server, job_id)


async def test_an_error_is_the_envelope_that_the_server_gives(server, heard, plain):
    """With its code, its blame and its node; of a refusal and of a run that failed."""
    unknown = {**plain, "1": {"class_type": "Nope", "inputs": {}}}
    raising = {
        **plain,
        "3": {"class_type": "TestRaise", "inputs": {"image": ["1", 0], "message": "no luck"}},
    }
    raising["2"] = {**plain["2"], "inputs": {**plain["2"]["inputs"], "images": ["3", 0]}}
    faults = []
    async with remote_of(server.url) as (remote, _):
        for graph in (unknown, raising):
            with pytest.raises(HandlerError) as caught:
                await remote.run({"prompt": graph}, heard)
            faults.append(caught.value)

    assert [(one.code, one.blame) for one in faults] == [
        ("invalid_workflow", "image"),
        ("execution_error", faults[1].blame),
    ]
    assert faults[1].node_id == "3"
    assert faults[1].class_type == "TestRaise"


async def test_a_server_that_keeps_nothing_is_waited_for(tmp_path, heard, plain, slow):
    """The connection brings the result there; giving up stops the job."""
    with live_server(tmp_path / "s", OUTPUT_RETENTION_S="0") as server:
        async with remote_of(server.url) as (remote, fetch):
            result = await remote.run({"prompt": plain}, heard)
            (one,) = [one async for one in save(result, tmp_path, fetch)]
            assert one.path.read_bytes().startswith(b"\x89PNG")

            task = asyncio.create_task(remote.run({"prompt": slow}, heard))
            job_id = await running(server)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone(server, job_id)


class PlainApi:
    """A comfyui-api: no jobs, no events, one answer; or none, until it is interrupted."""

    def __init__(self, booting=0, hangs=False):
        self.booting, self.hangs = booting, hangs
        self.requests = []
        self.interrupted = asyncio.Event()

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.requests.append((scope["method"], scope["path"], json.loads(body or b"null")))
        status, told, headers = await self._answer(scope["path"], body)
        data = json.dumps(told).encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _answer(self, path, body):
        if self.booting:
            self.booting -= 1
            return 503, {"status": "not ready"}, [(b"retry-after", b"0")]
        if path == "/interrupt":
            self.interrupted.set()
            return 200, {"id": json.loads(body)["id"], "interrupted": "success"}, []
        if not path.startswith(("/prompt", "/workflow/")):
            return 404, {"message": f"Route GET:{path} not found", "statusCode": 404}, []
        if self.hangs:
            await self.interrupted.wait()
        given = json.loads(body)
        if given.get("prompt") == {}:
            return 400, {"error": "Prompt must contain a node", "location": "prompt"}, []
        images = [base64.b64encode(PIXEL).decode()]
        return 200, {"id": given["id"], "images": images, "filenames": ["a/../x.png"]}, []


async def test_a_plain_comfyui_api_is_found_out(heard, plain, tmp_path):
    """After its boot; its one answer has the picture, and its names lead nowhere."""
    api = PlainApi(booting=3)
    async with serving(api) as client, remote_of(str(client.base_url)) as (remote, fetch):
        result = await remote.run({"prompt": plain}, heard)
        (one,) = [one async for one in save(result, tmp_path, fetch)]

    assert one.path == tmp_path / "x.png"
    assert one.path.read_bytes() == PIXEL
    assert "waits for a worker (503)" in heard.said


async def test_a_plain_comfyui_api_has_endpoints_and_errors_of_its_own(heard):
    """A named workflow is a route there."""
    api = PlainApi()
    async with serving(api) as client, remote_of(str(client.base_url)) as (remote, _):
        await remote.run({"workflow": "txt2img", "input": {"prompt": "a"}}, heard)
        with pytest.raises(HandlerError, match="400: Prompt must contain a node \\(prompt\\)"):
            await remote.run({"prompt": {}}, heard)

    method, path, body = api.requests[1]
    assert (method, path, body["input"]) == ("POST", "/workflow/txt2img", {"prompt": "a"})


async def test_a_plain_comfyui_api_is_interrupted(heard, plain):
    """By the id that we gave the job."""
    api = PlainApi(hangs=True)
    async with serving(api) as client, remote_of(str(client.base_url)) as (remote, _):
        task = asyncio.create_task(remote.run({"prompt": plain}, heard))
        await until(lambda: any(path == "/prompt" for _, path, _ in api.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    sent = {path: body["id"] for method, path, body in api.requests if method == "POST"}
    assert sent["/interrupt"] == sent["/prompt"]


async def test_nobody_there_is_told_soon(heard, plain):
    """An address may be wrong."""
    async with remote_of("http://127.0.0.1:9", silence_s=(0.1, 0.1)) as (remote, _):
        with pytest.raises(HandlerError, match=r"does not answer") as caught:
            await remote.run({"prompt": plain}, heard)
    assert caught.value.code == "unreachable"
    assert caught.value.hint == "is the address right, and the server up?"


class Balancer:
    """One address for several workers: every other request meets one that knows nothing."""

    def __init__(self):
        self.requests = []

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        self.requests.append(path)
        if path == "/jobs":
            status, body = 200, b'{"jobs": []}'
        elif path == "/prompt":
            status, body = 202, b'{"id": "ignored", "status": "ok"}'
        elif self.requests.count(path) % 3:
            status, body = 404, b'{"error": "no such job", "code": "not_found"}'
        elif path.endswith("/events"):
            facts = {"filename": "a.png", "name": "a b.png", "bytes": len(PIXEL), "text": None}
            end = json.dumps({"phase": "succeeded", "outputs": [facts]}).encode()
            status, body = 200, b"id: 1\nevent: succeeded\ndata: " + end + b"\n\n"
        else:
            status, body = 200, PIXEL
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def test_another_worker_behind_the_address_is_asked_again(heard, plain, tmp_path):
    """It is the one that took the job who knows it."""
    balancer = Balancer()
    async with serving(balancer) as client, remote_of(str(client.base_url)) as (remote, fetch):
        result = await remote.run({"prompt": plain}, heard)
        (one,) = [one async for one in save(result, tmp_path, fetch)]
    assert one.path.read_bytes() == PIXEL
    assert balancer.requests[-1].endswith("/outputs/a b.png")


async def test_a_job_whose_events_are_gone_is_asked_for(server, heard, plain):
    """As after a restart: its record has its end."""
    async with remote_of(server.url) as (remote, _):
        result = await remote.run({"prompt": plain}, heard)
        (told,) = await remote._ended(f"/jobs/{result.job_id}")
        assert told["name"] == result.things[0].facts["name"]
        with pytest.raises(HandlerError, match="knows no job"):
            await remote._ended("/jobs/nobody")


class ModalWeb:
    """Our API on Modal: what nobody waits for becomes a call, which is asked for its result."""

    def __init__(self, results):
        self.results, self.requests = list(results), []

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        self.requests.append(path)
        status, told, headers = 200, {"jobs": []}, []
        if path == "/prompt":
            status, told = 202, {"id": "x", "call_id": "fc-01", "status": "ok"}
            headers = [(b"location", b"/jobs/fc-01")]
        elif path.endswith("/result"):
            status, told = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})


async def test_a_job_that_becomes_a_call_of_modal_is_asked_for(heard, plain, tmp_path):
    """Where its 202 says; it is stopped there as well."""
    answer = {"id": "x", "images": [base64.b64encode(PIXEL).decode()], "filenames": ["x_a.png"]}
    waits = (202, {"status": "running"})
    web = ModalWeb([waits, waits, (200, answer)])
    async with serving(web) as client, remote_of(str(client.base_url)) as (remote, fetch):
        result = await remote.run({"prompt": plain}, heard)
        (one,) = [one async for one in save(result, tmp_path, fetch)]
    assert one.path == tmp_path / "a.png"

    failed = ModalWeb([(500, {"error": "no luck", "code": "execution_error"})])
    async with serving(failed) as client, remote_of(str(client.base_url)) as (remote, _):
        with pytest.raises(HandlerError, match="no luck"):
            await remote.run({"prompt": plain}, heard)

    endless = ModalWeb([waits])
    async with serving(endless) as client, remote_of(str(client.base_url)) as (remote, _):
        task = asyncio.create_task(remote.run({"prompt": plain}, heard))
        await until(lambda: any(path.endswith("/result") for path in endless.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert endless.requests[-1] == "/jobs/fc-01/cancel"
