"""Jobs in a queue of SaladCloud."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from platforms.salad_queue_double import KEY, salad_queue
from platforms.salad_sdk import SaladCloudSdk
from worker import until

from handler.errors import HandlerError, JobCancelled, PayloadTooLarge
from local_server.remote.base import Pace
from local_server.remote.download import Fetch
from local_server.remote.link import Link
from local_server.remote.result import save
from local_server.remote.salad import SaladRemote


@contextlib.asynccontextmanager
async def remote_to(queue, key=KEY):
    """Give a remote."""
    base = f"{queue.url}/organizations/acme/projects/art/queues/pictures"
    link = Link(base, {"Salad-Api-Key": key}, pause_s=(0.01, 0.05))
    remote = SaladRemote(link, Pace(0.02, 0.1))
    try:
        yield remote
    finally:
        await remote.close()


def test_the_double_is_as_salads_own_client_reads_it():
    """Its models have the fields, and demand them."""
    from salad_cloud_sdk.models import QueueJobPrototype

    with salad_queue() as queue:
        sdk = SaladCloudSdk(api_key=KEY, base_url=queue.url, timeout=10_000)
        where = ("acme", "art", "pictures")
        made = sdk.queues.create_queue_job(QueueJobPrototype(input={"prompt": {}}), *where)
        found = sdk.queues.get_queue_job(*where, made.id_)
        (listed,) = sdk.queues.list_queue_jobs(*where).items
        sdk.queues.delete_queue_job(*where, made.id_)
        assert sdk.queues.get_queue_job(*where, made.id_).status == "cancelled"
    assert (found.status, listed.id_, found.input) == ("pending", made.id_, {"prompt": {}})


async def test_a_job_is_run_and_its_picture_brought(server, heard, plain, tmp_path):
    """A real server does it, behind the queue."""
    with salad_queue(server.url) as queue:
        async with remote_to(queue) as remote:
            result = await remote.run({"prompt": plain}, heard)
    (one,) = [one async for one in save(result, tmp_path, Fetch())]
    assert one.path == tmp_path / "x_00001_.png"
    assert one.facts["sha256"]


async def test_a_job_that_succeeded_with_an_error_failed(server, heard):
    """Salad's worker has every 4xx count as a success."""
    with salad_queue(server.url) as queue:
        async with remote_to(queue) as remote:
            with pytest.raises(HandlerError) as caught:
                await remote.run({"prompt": {"1": {"class_type": "Nope", "inputs": {}}}}, heard)
        (job,) = queue.jobs.values()
    assert job["status"] == "succeeded"
    assert caught.value.code in {"invalid_workflow", "no_output_node"}


async def test_a_job_that_no_worker_finishes_is_given_up(heard, plain):
    """After four tries."""
    with salad_queue("http://127.0.0.1:9") as queue:
        async with remote_to(queue) as remote:
            with pytest.raises(HandlerError, match=r"gave the job up \(failed\)") as caught:
                await remote.run({"prompt": plain}, heard)
    assert caught.value.retryable
    (job,) = queue.jobs.values()
    assert [one["action"] for one in job["events"]].count("started") == 4


async def test_a_job_whose_creation_was_not_answered_is_found_again(server, heard, plain):
    """It is not made twice; what was surely not made is made again."""
    with salad_queue(server.url) as queue:
        queue.slam, queue.busy = 1, 1
        async with remote_to(queue) as remote:
            await remote.run({"prompt": plain}, heard)
    creations = [one for one in queue.requests if one.startswith("POST")]
    assert len(creations) == 2
    assert len(queue.jobs) == 1


async def test_who_stops_waiting_takes_a_job_out_of_the_queue(heard, plain):
    """Only a job that waits can be."""
    with salad_queue() as queue:
        async with remote_to(queue) as remote:
            task = asyncio.create_task(remote.run({"prompt": plain}, heard))
            await until(lambda: any("/jobs/" in one for one in queue.requests))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        (job,) = queue.jobs.values()
    assert job["status"] == "cancelled"


async def test_who_cannot_stop_a_job_is_told_so(server, heard, brief, caplog):
    """Salad lets a job that runs go on to its end."""
    with salad_queue(server.url) as queue:
        async with remote_to(queue) as remote:
            task = asyncio.create_task(remote.run({"prompt": brief}, heard))
            await until(lambda: "running" in heard.said)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert "the job may still run there" in caplog.text
        (job,) = queue.jobs.values()
        await until(lambda: job["status"] == "succeeded")


async def test_a_job_that_somebody_else_took_out_is_cancelled(heard, plain):
    """By the portal, or by the API."""
    with salad_queue() as queue:
        async with remote_to(queue) as remote:
            task = asyncio.create_task(remote.run({"prompt": plain}, heard))
            await until(lambda: queue.jobs)
            (job,) = queue.jobs.values()
            job["status"] = "cancelled"
            with pytest.raises(JobCancelled, match="at Salad"):
                await task


async def test_what_cannot_be_done_is_told_at_once(heard, plain):
    """A wrong key, and more than the queue brings."""
    with salad_queue() as queue:
        async with remote_to(queue, key="wrong") as remote:
            with pytest.raises(HandlerError, match="401"):
                await remote.run({"prompt": plain}, heard)
            with pytest.raises(PayloadTooLarge):
                await remote.run({"prompt": {"1": "x" * 10_000_001}}, heard)
        assert queue.jobs == {}
