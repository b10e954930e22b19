"""The route of re-deliveries over a handler on the engine in memory, and a real store."""

from __future__ import annotations

import pytest
from sources.puts import storing
from starlette.applications import Starlette
from worker import GRAPH, serving, worker

from adapters.asgi import error_answer
from adapters.asgi_body import JsonBodies
from adapters.asgi_redeliver import redeliver_routes
from adapters.openapi_redeliver import RedeliverAccepted, RedeliverAnswer
from handler.errors import HandlerError, UploadFailed


def app(handler):
    """The routes alone."""
    return Starlette(
        routes=redeliver_routes(handler, JsonBodies()),
        exception_handlers={HandlerError: error_answer},
    )


@pytest.fixture
async def kept(tmp_path):
    """A client of a handler that keeps the output of `a/job`, and a store."""
    async with storing() as store, worker(tmp_path) as (handler, _):
        store.replies.append((403, {}, "not today"))
        target = {"http_upload": {"url_prefix": store.url("/first")}}
        with pytest.raises(UploadFailed):
            await handler.handle({"prompt": GRAPH, "id": "a/job", **target})
        async with serving(app(handler)) as client:
            yield client, store, handler


async def test_outputs_are_brought_to_a_storage(kept):
    """By the job's id, whatever is in it."""
    client, store, _ = kept
    answer = await client.post(
        "/jobs/a%2Fjob/redeliver", json={"http_upload": {"url_prefix": store.url("/again")}}
    )

    assert answer.status_code == 200
    assert RedeliverAnswer.model_validate(answer.json()).images == [
        store.url(path) for path in store.files
    ]


async def test_async_is_accepted(kept):
    """202 at once, as `POST /prompt` has it."""
    client, store, handler = kept
    answer = await client.post(
        "/jobs/a/job/redeliver",
        json={"http_upload": {"url_prefix": store.url("/again"), "async": True}},
    )
    await handler.redelivery.drain(10)

    assert answer.status_code == 202
    assert answer.headers["location"] == "/jobs/a%2Fjob"
    assert RedeliverAccepted.model_validate(answer.json()).id == "a/job"
    assert len(store.files) == 1


async def test_faults_are_told(kept):
    """In the one envelope."""
    client, store, _ = kept
    to = {"http_upload": {"url_prefix": store.url("/again")}}
    store.replies.append((403, {}, "still not"))
    refused = await client.post("/jobs/a/job/redeliver", json=to)
    unknown = await client.post("/jobs/b/redeliver", json=to)
    none = await client.post("/jobs/a/job/redeliver", json={})

    told = [(one.status_code, one.json()["code"]) for one in (refused, unknown, none)]
    assert told == [(502, "upload_failed"), (404, "not_found"), (400, "invalid_payload")]
