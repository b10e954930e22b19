"""The queue's route: statuses, and who goes away."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from running import Gate
from starlette.applications import Starlette
from starlette.routing import Route
from worker import GRAPH, serving, until, worker

from adapters.asgi_body import JsonBodies
from adapters.salad_queue import QueueRoute, queue_status
from handler import errors
from handler.errors import ExecutionFailed, HandlerError, NotReady, QueueFull
from handler.job import Phase

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]
LEAVES = [kind for kind in KINDS if issubclass(kind, HandlerError)]


def route_of(handler, **options):
    return QueueRoute(handler, JsonBodies(), most_body=1 << 20, **options)


def app_of(route):
    return Starlette(routes=[Route("/queue", route, methods=["POST"])])


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_only_what_another_try_may_mend_is_sent_again(kind):
    """4xx ends a job; 408 and 429 would not."""
    fault = kind("x")
    status = queue_status(fault)
    if fault.retryable or fault.blame == "platform":
        assert 500 <= status < 600
    else:
        assert 400 <= status < 500
        assert status not in (408, 429)


def test_the_status_is_kept_where_it_means_the_same():
    """And else the nearest."""
    assert queue_status(NotReady("x")) == 503
    assert queue_status(QueueFull("x")) == 503
    assert queue_status(ExecutionFailed("x")) == 422
    assert queue_status(ExecutionFailed("x", blame="platform")) == 500
    assert queue_status(ExecutionFailed("x", blame="image")) == 422


async def test_a_job_is_done_and_its_sender_told(tmp_path):
    """The answer is JSON; a run that was done once is not done again."""
    async with worker(tmp_path) as (handler, _):
        route = route_of(handler)
        async with serving(app_of(route)) as client:
            headers = {"Salad-Job-Id": "one"}
            first = await client.post("/queue", json={"prompt": GRAPH}, headers=headers)
            second = await client.post("/queue", json={"prompt": GRAPH}, headers=headers)
            bad = await client.post("/queue", content=b"{", headers={"content-type": "text/json"})
        assert (first.status_code, second.status_code, bad.status_code) == (200, 200, 400)
        assert first.json()["id"] == second.json()["id"]
        assert route.in_hand == 0
        assert "0 in hand" in repr(route)
        assert handler.find(first.json()["id"]).adapter == "salad"


async def test_an_answer_over_the_limit_is_a_final_error(tmp_path):
    """Told what to do; nothing is sent that the queue would refuse."""
    async with (
        worker(tmp_path) as (handler, _),
        serving(app_of(route_of(handler, most_bytes=100))) as client,
    ):
        answer = await client.post("/queue", json={"prompt": GRAPH})
    assert (answer.status_code, answer.json()["code"]) == (422, "result_too_large")
    assert "OUTPUT_STORAGE" in answer.json()["hint"]


async def test_a_sender_that_goes_away_ends_its_job_for_now(tmp_path):
    """It was interrupted, not cancelled: under the same id it is run again."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        route = route_of(handler)
        async with serving(app_of(route)) as client:
            headers = {"Salad-Job-Id": "one"}
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    await client.post(
                        "/queue", json={"prompt": GRAPH}, headers=headers, timeout=0.3
                    )
                await until(lambda: route.in_hand == 0)
            assert len(gate.begun) == 2
            gate.open.set()
            answer = await client.post("/queue", json={"prompt": GRAPH}, headers=headers)
            assert answer.status_code == 200


async def test_a_job_that_comes_too_late_is_held(tmp_path):
    """Refusing it at once would have the worker bring the next one, and the next."""
    async with worker(tmp_path) as (handler, _):
        route = route_of(handler, hold_s=0.3)
        async with serving(app_of(route)) as client:
            await handler.drain(0)
            begun = asyncio.get_running_loop().time()
            answer = await client.post("/queue", json={"prompt": GRAPH})
            assert asyncio.get_running_loop().time() - begun >= 0.3
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert route.in_hand == 0


async def test_a_fault_of_ours_is_told_as_one(tmp_path):
    """5xx: another worker may be better."""

    class Broken:
        def health(self):
            raise RuntimeError("secret")

    async with serving(app_of(route_of(Broken()))) as client:
        answer = await client.post("/queue", json={"prompt": GRAPH})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


async def test_a_job_that_somebody_cancelled_stays_cancelled(tmp_path):
    """That is its end, and told as one."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        async with serving(app_of(route_of(handler))) as client:
            body = {"prompt": GRAPH, "id": "stop"}
            post = client.post("/queue", json=body, headers={"Salad-Job-Id": "one"})
            waiting = asyncio.create_task(post)
            await until(lambda: gate.begun)
            handler.cancel("stop")
            answer = await waiting
        assert answer.status_code == 499
        assert handler.find("stop").phase is Phase.CANCELLED
