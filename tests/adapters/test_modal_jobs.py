"""One call on Modal, with a worker in memory; tests/platforms has it in Modal's own hands."""

from __future__ import annotations

import asyncio

import pytest
from worker import GRAPH, until, worker

from adapters.modal_jobs import run, stream, submission

PLAIN = {"prompt": GRAPH}


def test_an_input_is_its_own_key():
    """A caller's wins, in the scope of HTTP's; without any there is none."""
    assert submission("in-1").key == "modal:in-1"
    assert submission("in-1", "mine").key == "http:mine"
    assert submission(None).key is None
    assert submission("in-1").waits


async def test_a_job_is_run_to_its_answer(tmp_path):
    """As plain JSON values."""
    async with worker(tmp_path) as (handler, _):
        answer = await run(handler, PLAIN, submission("in-1"))
        assert len(answer["images"]) == 1
        again = await run(handler, PLAIN, submission("in-1"))
        assert again["id"] == answer["id"]


async def test_a_fault_is_an_envelope(tmp_path):
    """Also where it is ours; the container lives on."""
    async with worker(tmp_path) as (handler, _):
        told = await run(handler, {"prompt": {}}, submission("in-1"))
        assert told["statusCode"] == 400
        told = await run(handler, {"prompt": GRAPH, "id": object()}, submission("in-2"))
        assert told["statusCode"] in (400, 500)
        items = [item async for item in stream(handler, 5, submission("in-3"))]
        assert [item["type"] for item in items] == ["error"]


async def test_a_stream_ends_with_the_answer(tmp_path):
    """After the events; one that was over before has the answer alone."""
    async with worker(tmp_path) as (handler, _):
        items = [item async for item in stream(handler, PLAIN, submission("in-1"))]
        assert items[-1]["type"] == "answer"
        assert {"phase", "output"} <= {item["type"] for item in items}
        again = [item async for item in stream(handler, PLAIN, submission("in-1"))]
        assert again[-1]["type"] == "answer"


@pytest.mark.parametrize(("cancelled", "ends"), [(True, True), (False, False)])
async def test_only_a_callers_cancelling_ends_the_job(tmp_path, cancelled, ends):
    """A container that is taken away leaves it to the next delivery."""
    async with worker(tmp_path) as (handler, engine):
        engine.hold = asyncio.Event() if hasattr(engine, "hold") else None
        given = {"prompt": GRAPH, "id": "j"}
        task = asyncio.create_task(run(handler, given, submission("in-1"), lambda: cancelled))
        await until(lambda: handler.find("j") is not None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        job = handler.find("j")
        assert job is not None
        assert job.cancel_asked is ends
        await until(lambda: job.phase.final)
