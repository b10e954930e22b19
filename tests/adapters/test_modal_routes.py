"""Long jobs over HTTP, with calls in memory."""

from __future__ import annotations

import pytest
from worker import GRAPH, serving, worker

from adapters.asgi import make_app
from adapters.modal_routes import call_routes, failed, record
from adapters.serving import Platform
from handler.errors import JobCancelled, NotFound
from handler.settings import Settings


class CallsInMemory:
    """The port: calls that end when a test says so."""

    def __init__(self):
        self.spawned, self.found, self.cancelled = [], {}, []

    async def spawn(self, payload, key):
        self.spawned.append((payload, key))
        self.found[f"fc-{len(self.spawned)}"] = None
        return f"fc-{len(self.spawned)}"

    async def poll(self, call_id, timeout_s=0):
        if call_id not in self.found:
            raise NotFound("no such call")
        return self.found[call_id]

    async def cancel(self, call_id):
        self.cancelled.append(call_id)
        self.found[call_id] = JobCancelled("stopped").envelope()


@pytest.fixture
async def here(tmp_path):
    """Give a client, and the calls behind it."""
    calls, settings = CallsInMemory(), Settings()
    async with worker(tmp_path) as (handler, _):
        platform = Platform(
            name="modal",
            routes=lambda handler, bodies: call_routes(handler, bodies, calls, 1 << 20),
        )
        async with serving(make_app(handler, settings, platform=platform)) as client:
            yield client, calls


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({}, {"Prefer": "respond-async"}),
        ({"webhook_v2": "https://example.org/hook"}, {}),
        ({"s3": {"bucket": "bucket", "prefix": "p/", "async": True}}, {}),
    ],
)
async def test_what_nobody_waits_for_becomes_a_call(here, more, headers):
    """It is told where it is asked for, and has an id that a webhook tells, too."""
    client, calls = here
    headers = {**headers, "Idempotency-Key": "k"}
    answer = await client.post("/prompt", json={"prompt": GRAPH, **more}, headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (202, "/jobs/fc-1"), answer.text
    ((payload, key),) = calls.spawned
    assert (payload["prompt"], key) == (GRAPH, "k")
    assert answer.json() == {"id": payload["id"], "call_id": "fc-1", "status": "ok"}


async def test_a_key_that_is_sent_again_is_the_same_run(here):
    """Its payload must not differ by the id that was drawn for it: it would be refused."""
    client, calls = here
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    for _ in range(2):
        await client.post("/prompt", json={"prompt": GRAPH}, headers=headers)
    await client.post(
        "/prompt", json={"prompt": GRAPH}, headers={**headers, "Idempotency-Key": "l"}
    )
    (first, _), (again, _), (other, _) = calls.spawned
    assert first == again
    assert first["id"] != other["id"]


async def test_whoever_waits_is_answered_here(here):
    """No call is made of it."""
    client, calls = here
    answer = await client.post("/prompt", json={"prompt": GRAPH})
    assert (answer.status_code, len(answer.json()["images"])) == (200, 1)
    assert calls.spawned == []
    assert (await client.get("/jobs/any")).status_code == 404


async def test_a_call_is_asked_for_as_a_job_is(here):
    """While it runs, and when it is over: well, or not."""
    client, calls = here
    calls.found["fc-a"] = None
    assert (await client.get("/jobs/fc-a")).json()["status"] == "running"
    assert (await client.get("/jobs/fc-a/result")).status_code == 202
    calls.found["fc-a"] = {"images": [], "outputs": [{"node_id": "1"}], "stats": {"x": 1}}
    told = (await client.get("/jobs/fc-a")).json()
    assert (told["status"], told["outputs"]) == ("succeeded", [{"node_id": "1"}])
    calls.found["fc-b"] = NotFound("gone").envelope()
    assert (await client.get("/jobs/fc-b")).json()["error"]["code"] == "not_found"
    assert (await client.get("/jobs/fc-b/result")).status_code == 404
    assert (await client.get("/jobs/fc-none")).status_code == 404


async def test_a_call_is_cancelled_once(here):
    """What is over stays as it is."""
    client, calls = here
    calls.found["fc-a"] = None
    told = (await client.post("/jobs/fc-a/cancel")).json()
    assert told == {"id": "fc-a", "status": "cancelled", "cancelled": True}
    told = (await client.post("/jobs/fc-a/cancel")).json()
    assert told == {"id": "fc-a", "status": "cancelled", "cancelled": False}
    assert calls.cancelled == ["fc-a"]


@pytest.mark.parametrize("body", [5, {"prompt": GRAPH, "id": 5}])
async def test_what_no_worker_takes_is_refused_at_once(here, body):
    """It never becomes a call."""
    client, calls = here
    answer = await client.post("/prompt", json=body, headers={"Prefer": "respond-async"})
    assert (answer.status_code, calls.spawned) == (400, [])


def test_an_error_is_told_from_an_answer():
    """By the keys that every envelope has."""
    assert failed(NotFound("x").envelope())
    assert not failed({"images": [], "outputs": []})
    assert record("fc-1", None)["status"] == "running"


@pytest.mark.parametrize("status", ["x", None, 0, 204, 10**9])
async def test_what_only_looks_like_an_error_is_a_result(here, status):
    """A call of another function may have given anything: it is never the answer's status."""
    client, calls = here
    calls.found["fc-9"] = {"statusCode": status, "code": 1, "error": 2}

    answer = await client.get("/jobs/fc-9/result")

    assert (answer.status_code, answer.json()) == (200, calls.found["fc-9"])
