"""The routes over a handler on the engine in memory, behind a real server."""

from __future__ import annotations

import base64

import pytest
from http_worker import PAYLOAD, Gate, fault, in_phase, served
from starlette.exceptions import HTTPException
from starlette.requests import Request
from worker import GRAPH, serving, worker

from adapters.asgi import error_answer, make_app
from handler.engine.base import EngineState
from handler.engine.memory import PIXEL
from handler.errors import QueueFull
from handler.job import Phase
from handler.settings import Settings
from handler.version import VERSION


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
        await in_phase(handler, "me", Phase.RUNNING)
        jobs.append(handler.submit({"prompt": GRAPH}))
        response = await client.post("/prompt", json={"prompt": GRAPH})
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
    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": []})
    response = await error_answer(request, HTTPException(431, "too many headers"))
    assert response.status_code == 400
    assert b"too many headers" in response.body


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


async def test_metrics_are_there_to_be_scraped(tmp_path):
    """Beside the other routes."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD)
        assert "comfyfn" in (await client.get("/metrics")).text
