"""The routes over a handler on the engine in memory, behind a real server."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
from starlette.requests import Request
from worker import GRAPH, serving, until, worker

from adapters import asgi
from adapters.asgi import error_answer, make_app
from handler.engine.base import EngineState
from handler.engine.events import NodeStarted, Started
from handler.engine.memory import PIXEL, save_pictures
from handler.errors import QueueFull
from handler.job import Phase
from handler.settings import Settings
from handler.version import VERSION

PAYLOAD = {"prompt": GRAPH, "id": "me"}


@contextlib.asynccontextmanager
async def served(home, settings=None, **options):
    """A client, the handler and the engine behind it."""
    settings = settings or Settings()
    async with (
        worker(home, settings, **options) as (handler, engine),
        serving(make_app(handler, settings)) as client,
    ):
        yield client, handler, engine


class Gate:
    """A script that waits until it is let on."""

    def __init__(self):
        self.open = asyncio.Event()

    async def __call__(self, prompt, files):
        yield Started(1)
        yield NodeStarted("1")
        await self.open.wait()
        async for event in save_pictures(prompt, files):
            if not isinstance(event, Started):
                yield event


def fault(response, status, code):
    """Check an error and give its body."""
    assert response.status_code == status
    body = response.json()
    assert (body["code"], body["statusCode"]) == (code, status)
    return body


async def test_a_prompt_is_answered_with_its_outputs(tmp_path):
    """JSON by default, raw where that is asked for."""
    async with served(tmp_path) as (client, _, _):
        answer = (await client.post("/prompt", json=PAYLOAD)).json()
        raw = await client.post("/prompt", json=PAYLOAD, headers={"accept": "image/*"})

    assert answer["id"] == "me"
    assert base64.b64decode(answer["images"][0]) == PIXEL == raw.content


async def test_errors_have_one_envelope(tmp_path):
    """Of the handler, of the router, of the body."""
    async with served(tmp_path) as (client, _, _):
        fault(await client.post("/prompt", json={"prompt": {}}), 400, "no_output_node")
        fault(await client.post("/prompt", json={"prompt": 5}), 400, "invalid_workflow")
        fault(await client.post("/prompt", content=b"{"), 400, "invalid_payload")
        assert "/nothing" in fault(await client.get("/nothing"), 404, "not_found")["error"]
        fault(await client.get("/prompt"), 405, "method_not_allowed")
        fault(await client.post("/health"), 405, "method_not_allowed")


async def test_large_bodies_lie_in_the_folder_that_is_given(tmp_path):
    """A folder that is not there shows it."""
    settings = Settings()
    async with worker(tmp_path, settings) as (handler, _):
        app = make_app(handler, settings, tmp_path / "none")
        async with serving(app) as client:
            large = await client.post("/prompt", json={**PAYLOAD, "pad": "x" * (1 << 20)})
            assert (await client.post("/prompt", json=PAYLOAD)).status_code == 200
    assert "cannot be stored" in fault(large, 500, "internal_error")["error"]


async def test_a_refused_job_is_told_when_to_come_again(tmp_path):
    """Retry-After in whole seconds, at least one."""
    gate = Gate()
    settings = Settings(max_queue_depth=1, engine_prefetch=1)
    async with served(tmp_path, settings, script=gate) as (client, handler, _):
        jobs = [handler.submit(PAYLOAD)]
        await until(lambda: jobs[0].phase is Phase.RUNNING)
        jobs.append(handler.submit(PAYLOAD))
        response = await client.post("/prompt", json=PAYLOAD)
        fault(response, 429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        gate.open.set()
        for job in jobs:
            await (await handler.result(job)).close()


async def test_any_exception_becomes_the_envelope():
    """A fault of ours shows its kind only."""
    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": []})
    response = await error_answer(request, ZeroDivisionError("s3cret"))
    assert response.status_code == 500
    assert b"ZeroDivisionError" in response.body
    assert b"s3cret" not in response.body

    busy = await error_answer(request, QueueFull("x", retry_after_s=0.2))
    assert busy.headers["retry-after"] == "1"


async def test_other_refusals_of_the_framework_are_the_callers(tmp_path):
    """Whatever status it has in mind."""
    from starlette.exceptions import HTTPException

    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": []})
    response = await error_answer(request, HTTPException(431, "too many headers"))
    assert response.status_code == 400
    assert b"too many headers" in response.body


async def test_a_client_that_goes_away_cancels_its_job(tmp_path):
    """Nothing runs for nobody."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, engine):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        await until(lambda: handler.find("me") and handler.find("me").phase is Phase.RUNNING)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await until(lambda: handler.find("me").phase is Phase.CANCELLED)
        await until(lambda: engine.cancelled)


async def test_a_job_is_interrupted_by_its_id(tmp_path):
    """Its caller gets 499; a second time there is nothing to interrupt."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        await until(lambda: handler.find("me") and handler.find("me").phase is Phase.RUNNING)
        first = await client.post("/interrupt", json={"id": "me"})
        assert (first.status_code, first.json()) == (200, {"id": "me", "interrupted": "success"})
        fault(await call, 499, "cancelled")
        second = await client.post("/interrupt", json={"id": "me"})
        assert (second.status_code, second.json()["interrupted"]) == (404, "failed")


@pytest.mark.parametrize("body", [{}, {"id": ""}, {"id": 5}, [], "me"])
async def test_an_interrupt_needs_an_id(tmp_path, body):
    """400, and which key."""
    async with served(tmp_path) as (client, _, _):
        told = fault(await client.post("/interrupt", json=body), 400, "invalid_payload")
    assert told["location"] == "id"


async def test_a_job_can_be_looked_at(tmp_path):
    """While it waits, runs and after its end; any text is an id."""
    gate, odd = Gate(), "a/b c\nü"
    async with served(tmp_path, script=gate) as (client, handler, _):
        job = handler.submit({**PAYLOAD, "id": odd})
        await until(lambda: job.phase is Phase.RUNNING)
        running = (await client.get("/jobs/a%2Fb%20c%0A%C3%BC")).json()
        assert (running["id"], running["status"], running["position"]) == (odd, "running", 0)
        gate.open.set()
        await (await handler.result(job)).close()
        over = (await client.get("/jobs/a%2Fb%20c%0A%C3%BC")).json()
        assert (over["status"], over["position"]) == ("succeeded", None)
        fault(await client.get("/jobs/other"), 404, "not_found")
        fault(await client.get("/jobs/other/events"), 404, "not_found")


def blocks(text):
    """Split server-sent events; a comment is a block without fields."""
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in text.strip().split("\n\n")
    ]


async def test_events_are_streamed_until_the_end(tmp_path):
    """Numbered, and resumed by Last-Event-ID."""
    async with served(tmp_path) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        response = await client.get("/jobs/me/events")
        await (await handler.result(job)).close()
        again = await client.get("/jobs/me/events", headers={"last-event-id": "2"})
        odd = await client.get("/jobs/me/events", headers={"last-event-id": "x"})
        huge = await client.get("/jobs/me/events", headers={"last-event-id": "9" * 5000})

    events = blocks(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["event"] == "succeeded"
    assert blocks(again.text) == events[2:]
    assert odd.text == huge.text == response.text


@pytest.mark.parametrize(
    ("query", "wanted"), [("", False), ("?previews=1", True), ("?previews=no", False)]
)
async def test_a_follower_may_ask_for_previews(tmp_path, query, wanted):
    """Pictures are sent to who wants them."""
    async with served(tmp_path) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        await client.get(f"/jobs/me/events{query}")
        assert job.wants_previews is wanted
        await (await handler.result(job)).close()


async def test_a_silent_job_keeps_its_stream_open(tmp_path):
    """Comments go out while nothing happens; who goes away is no follower any more."""
    gate = Gate()
    before = asgi.KEEPALIVE_S
    async with served(tmp_path, script=gate) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        await until(lambda: job.phase is Phase.RUNNING)
        stream = asgi._sse(job, 0, keepalive_s=0.01)
        told = [await anext(stream) for _ in range(8)]
        assert b": still here\n\n" in told
        await stream.aclose()
        assert not job.followed
        async with client.stream("GET", "/jobs/me/events") as response:
            await until(lambda: job.followed)
            assert response.status_code == 200
        await until(lambda: not job.followed)
        gate.open.set()
        await (await handler.result(job)).close()
    assert before == asgi.KEEPALIVE_S


async def test_models_are_listed(tmp_path):
    """By folder."""
    async with served(tmp_path) as (client, _, _):
        assert (await client.get("/models")).json() == {"checkpoints": []}


@pytest.mark.parametrize(
    ("state", "statuses", "phase"),
    [
        (EngineState.STARTING, (200, 503, 503, 200), "starting"),
        (EngineState.READY, (200, 200, 200, 200), "ready"),
        (EngineState.RESTARTING, (200, 503, 200, 200), "recovering"),
        (EngineState.FAILED, (500, 503, 200, 503), "unhealthy"),
        (EngineState.STOPPED, (200, 503, 200, 503), "stopped"),
    ],
)
async def test_probes_tell_the_workers_state(tmp_path, state, statuses, phase):
    """/health, /ready, /health/startup, /health/live; /health/ready is /ready."""
    start = state is not EngineState.STARTING
    async with served(tmp_path, start=start) as (client, _, engine):
        if start:
            engine.enter(state, "why")
        paths = ("/health", "/ready", "/health/startup", "/health/live", "/health/ready")
        answers = [await client.get(path) for path in paths]

    assert tuple(answer.status_code for answer in answers) == (*statuses, statuses[1])
    for answer in answers:
        assert answer.json()["phase"] == phase
        assert answer.json()["version"] == VERSION
    assert answers[0].json()["engine"]["kind"] == "memory"
    assert answers[0].json()["jobs"] == {"waiting": 0, "running": 0}


async def test_a_body_over_the_operators_limit_is_refused(tmp_path):
    """MAX_BODY_SIZE_MB, with the limit told."""
    async with served(tmp_path, Settings(max_body_mb=1)) as (client, _, _):
        big = {**PAYLOAD, "pad": "x" * (1 << 20)}
        assert (
            "1 MiB"
            in fault(await client.post("/prompt", json=big), 413, "payload_too_large")["error"]
        )


def test_ids_are_any_text_in_a_path():
    """The converter gives what it gets, both ways."""
    converter = asgi.AnyText()
    assert converter.convert("a/b\n") == converter.to_string("a/b\n") == "a/b\n"
