"""A job as it is handed out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from adapters.runpod_job import Clocks, Given, read_job
from adapters.runpod_result import ASYNC_BYTES, CHUNK_BYTES, SYNC_BYTES
from handler.settings import Settings


def read(job: dict[str, Any], settings: Settings | None = None, **how: bool) -> Given:
    how = {"stored": False, "streams": False, **how}
    return read_job(job, settings or Settings(), **how)


def test_a_job_is_known_by_its_id() -> None:
    """In the state, so that one handed out again is known, and in the log."""
    given = read({"id": "j-1", "input": {"prompt": {}}})

    assert given.submission.key == "runpod:j-1"
    assert given.submission.adapter == "runpod"
    assert given.submission.waits
    assert given.call.payload == {"prompt": {}, "id": "j-1"}
    assert given.limit == given.submission.inline_bytes == ASYNC_BYTES


def test_the_callers_own_id_is_kept() -> None:
    """It names the outputs."""
    assert read({"id": "j", "input": {"prompt": {}, "id": "mine"}}).call.payload["id"] == "mine"


def test_local_runs_have_no_name() -> None:
    """All of them have the same id."""
    given = read({"id": "local_test", "input": {"prompt": {}}})

    assert given.submission.key is None
    assert given.call.payload == {"prompt": {}}


def test_the_ceiling_is_by_the_way_it_came() -> None:
    """A stream's is that of an item where there is a storage; else nothing is refused."""
    job = {"id": "sync-1", "input": {"prompt": {}}}

    assert read(job).submission.inline_bytes == SYNC_BYTES
    assert read(job, streams=True).submission.inline_bytes == 0
    assert read(job, streams=True, stored=True).submission.inline_bytes == CHUNK_BYTES
    assert read(job, streams=True).limit == SYNC_BYTES


def test_with_a_bucket_worker_comfyuis_outputs_are_all_stored() -> None:
    """As its users are used to."""
    settings = Settings(bucket_endpoint="https://s3")

    assert read({"id": "1", "input": {"workflow": {}}}, settings).submission.inline_bytes == 1
    assert read({"id": "1", "input": {"prompt": {}}}, settings).submission.inline_bytes > 1


@pytest.mark.parametrize(
    ("policy", "own", "limit_s"),
    [
        ({"executionTimeout": 10_000}, None, 9.5),
        ({"executionTimeout": 600_000}, None, 595.0),
        ({"executionTimeout": 10_000}, {"total_s": 100}, 9.5),
        ({"executionTimeout": 10_000}, {"total_s": 3}, 3),
        ({"executionTimeout": 10_000}, {"queue_s": 1}, 9.5),
        ({"executionTimeout": True}, {"total_s": 3}, 3),
        ({"executionTimeout": "10"}, {"total_s": 3}, 3),
        ({"executionTimeout": float("nan")}, {"total_s": 3}, 3),
        ({"executionTimeout": 10**400}, {"total_s": 3}, 3),
        ({"executionTimeout": 1e-300}, {"total_s": 3}, 3),
        ("policy", {"total_s": 3}, 3),
        ({"executionTimeout": 10_000}, {"total_s": "x"}, "x"),
    ],
)
def test_the_smaller_limit_is_the_jobs(policy: Any, own: Any, limit_s: Any) -> None:
    """RunPod's a moment before RunPod ends the job; a faulty one is left to be told."""
    given = {"prompt": {}, **({"timeouts": own} if own else {})}
    payload = read({"id": "1", "input": given, "policy": policy}).call.payload

    assert payload["timeouts"]["total_s"] == limit_s
    assert payload["timeouts"].get("queue_s") == (own or {}).get("queue_s")


def test_a_payload_of_another_kind_is_left_to_the_handler() -> None:
    """Nothing is read into it."""
    given = read({"id": "1", "input": [1], "policy": {"executionTimeout": 1000}, "s3Config": {}})
    odd = read({"id": "1", "input": {"timeouts": 3}, "policy": {"executionTimeout": 1000}})

    assert given.call.payload == [1]
    assert odd.call.payload["timeouts"] == 3


async def test_a_loop_that_stood_still_is_seen_once() -> None:
    """As when the process was stopped with both clocks going on."""
    clocks = Clocks()
    ticking = asyncio.ensure_future(clocks.tick())
    await asyncio.sleep(0)
    assert not clocks.jumped()
    time.sleep(4.2)  # what is measured is time
    await asyncio.sleep(0.01)
    ticking.cancel()

    assert clocks.jumped()
    assert not clocks.jumped()
