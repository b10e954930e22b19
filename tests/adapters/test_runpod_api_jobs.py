"""The queue of the request API, with work that does what a test wants."""

from __future__ import annotations

import asyncio
import contextlib

import orjson
import pytest

from adapters.runpod_api_files import JobFiles
from adapters.runpod_api_jobs import JobQueue
from adapters.runpod_api_records import Terms
from handler.errors import InvalidPayload, NotFound


class Script:
    """Work that waits until it is let on, and gives what it is told."""

    def __init__(self):
        self.open = asyncio.Event()
        self.begun = []
        self.stopped = []
        self.result = {"output": {"fine": True}}

    async def __call__(self, job, given):
        self.begun.append(given["input"])
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.stopped.append(given["input"])
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@contextlib.asynccontextmanager
async def queue_in(home, script, terms=None, **options):
    files = JobFiles(home / "queue")
    files.open()
    queue = JobQueue(files, script, terms=terms or Terms(), **options)
    try:
        await queue.restore()
        yield queue
    finally:
        await queue.close()
        files.close()


async def added(queue, value, **keys):
    return await queue.add({"input": value, **keys}, sync=False)


async def told(queue, job):
    async with asyncio.timeout(10):
        await job.over.wait()
    return orjson.loads(await queue.status(job))


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_jobs_wait_until_the_worker_is_ready_and_has_room(tmp_path):
    """In the order in which they came."""
    script = Script()
    async with queue_in(tmp_path, script) as queue:
        first, second = await added(queue, 1), await added(queue, 2)
        assert queue.counts()["inQueue"] == 2
        assert orjson.loads(await queue.status(first)) == {"id": first.id, "status": "IN_QUEUE"}
        queue.open()
        await until(lambda: script.begun)
        assert (queue.counts()["inProgress"], queue.counts()["inQueue"]) == (1, 1)
        script.open.set()
        assert (await told(queue, first))["output"] == {"fine": True}
        assert (await told(queue, second))["status"] == "COMPLETED"
        assert script.begun == [1, 2]
        assert queue.counts()["completed"] == 2


@pytest.mark.parametrize(
    ("result", "error"),
    [({"error": "bad", "output": {"code": "x"}}, "bad"), (KeyError("k"), "internal fault")],
)
async def test_an_error_is_a_failure(tmp_path, result, error):
    """Also a fault of ours, without its text."""
    script = Script()
    script.result = result
    script.open.set()
    async with queue_in(tmp_path, script) as queue:
        queue.open()
        end = await told(queue, await added(queue, 1))
    assert end["status"] == "FAILED"
    assert end["error"].startswith(error)


async def test_a_job_over_its_execution_timeout_is_stopped(tmp_path):
    """Where the worker did not end it itself; it can be tried again."""
    script = Script()
    async with queue_in(tmp_path, script, Terms(least_execution_s=0.01)) as queue:
        queue.open()
        job = await added(queue, 1, policy={"executionTimeout": 50})
        end = await told(queue, job)
        assert (end["status"], script.stopped) == ("TIMED_OUT", [1])
        assert "0.05 s (policy.executionTimeout)" in end["error"]
        script.open.set()
        await queue.retry(job)
        assert (await told(queue, job))["status"] == "COMPLETED"
        assert queue.counts() == {
            "completed": 1,
            "failed": 1,
            "inProgress": 0,
            "inQueue": 0,
            "retried": 1,
        }


async def test_a_job_over_its_time_to_live_is_given_up(tmp_path):
    """Whether it waits or runs."""
    script = Script()
    async with queue_in(tmp_path, script, Terms(least_ttl_s=0.01)) as queue:
        queue.open()
        runs = await added(queue, 1, policy={"ttl": 200})
        waits = await added(queue, 2, policy={"ttl": 30})
        ends = [await told(queue, job) for job in (runs, waits)]
    assert [end["status"] for end in ends] == ["TIMED_OUT", "TIMED_OUT"]
    assert "policy.ttl" in ends[0]["error"]
    assert script.stopped == [1]
    assert "executionTime" not in ends[1]


async def test_results_are_forgotten_after_their_time(tmp_path):
    """That of /runsync sooner."""
    script = Script()
    script.open.set()
    async with queue_in(tmp_path, script, Terms(kept_s=60, kept_sync_s=0.02)) as queue:
        queue.open()
        job = await added(queue, 1)
        synced = await queue.add({"input": 2}, sync=True)
        await told(queue, job)
        await until(lambda: synced.id not in queue._jobs)
        with pytest.raises(NotFound):
            queue.find(synced.id)
        assert queue.find(job.id) is job


async def test_a_cancelled_job_is_stopped_and_its_place_is_free(tmp_path):
    """What is over stays as it is."""
    script = Script()
    async with queue_in(tmp_path, script) as queue:
        queue.open()
        first, second, third = [await added(queue, n) for n in (1, 2, 3)]
        await until(lambda: script.begun == [1])
        await queue.cancel(second)
        await queue.cancel(first)
        script.open.set()
        assert (await told(queue, third))["status"] == "COMPLETED"
        await queue.cancel(third)
        assert [job.status for job in (first, second, third)] == [
            "CANCELLED",
            "CANCELLED",
            "COMPLETED",
        ]
        assert (script.begun, script.stopped) == ([1, 3], [1])
        with pytest.raises(InvalidPayload, match="COMPLETED"):
            await queue.retry(third)


async def test_what_waited_goes_on_after_a_restart(tmp_path):
    """What ran is handed out again; what was over keeps its result."""
    script = Script()
    down = False
    async with queue_in(tmp_path, script, stopping=lambda: down, most=3) as queue:
        queue.open()
        script.open.set()
        done = await added(queue, 1)
        before = await told(queue, done)
        script.open.clear()
        script.result = {"error": "stopped", "output": {"code": "draining"}}
        refused, runs = await added(queue, 2), await added(queue, 3)
        await until(lambda: len(script.begun) == 3)
        down = True
        waits = await added(queue, 4)
        script.open.set()
        await until(lambda: refused.task.done() and runs.task.done())
    again = Script()
    again.open.set()
    async with queue_in(tmp_path, again) as queue:
        assert orjson.loads(await queue.status(queue.find(done.id))) == before
        queue.open()
        for job in (refused, runs, waits):
            assert (await told(queue, queue.find(job.id)))["status"] == "COMPLETED"
        assert again.begun == [2, 3, 4]
        assert queue.counts()["retried"] == 2


async def test_a_record_of_another_version_is_put_away(tmp_path):
    """And hinders nobody."""
    files = JobFiles(tmp_path / "queue")
    files.open()
    files.take("old", {"status": "SLEEPING"}, {"input": 1})
    files.close()
    async with queue_in(tmp_path, Script()) as queue:
        with pytest.raises(NotFound):
            queue.find("old")
    assert not (tmp_path / "queue" / "old.request").exists()


@pytest.mark.parametrize(
    "policy",
    [
        5,
        {"executionTimeout": 4999},
        {"executionTimeout": True},
        {"ttl": "long"},
        {"ttl": 9999},
        {"ttl": 8 * 86400 * 1000},
    ],
)
async def test_a_policy_that_runpod_would_not_take_is_refused(tmp_path, policy):
    """With the key that is at fault."""
    async with queue_in(tmp_path, Script()) as queue:
        with pytest.raises(InvalidPayload) as refused:
            await added(queue, 1, policy=policy)
    assert refused.value.location.startswith("policy")


async def test_who_wants_to_be_told_is_told_once(tmp_path):
    """Of jobs with a webhook alone."""
    script, heard = Script(), []
    script.open.set()
    async with queue_in(tmp_path, script, tell=heard.append) as queue:
        queue.open()
        hooked = await added(queue, 1, webhook="http://x/")
        plain = await added(queue, 2)
        await told(queue, hooked)
        await told(queue, plain)
        assert "completed': 2" in repr(queue)
    assert heard == [hooked]


async def test_what_was_asked_for_is_kept_no_longer_than_a_try_can_need_it(tmp_path):
    """It may have secrets in it: it goes with success, and stays with what can be tried again."""
    script = Script()
    script.open.set()
    async with queue_in(tmp_path, script) as queue:
        queue.open()
        fine = await added(queue, 1)
        await told(queue, fine)
        script.result = {"error": "bad"}
        bad = await added(queue, 2)
        await told(queue, bad)
        left = {path.stem for path in (tmp_path / "queue").glob("*.request")}
        assert left == {bad.id}
        script.result = {"output": 1}
        await queue.retry(bad)
        assert (await told(queue, bad))["status"] == "COMPLETED"
    assert not list((tmp_path / "queue").glob("*.request"))


async def test_of_many_retries_at_once_one_is_a_try(tmp_path):
    """The others are told that it did not fail: it waits, or runs."""
    script = Script()
    script.open.set()
    script.result = {"error": "bad"}
    async with queue_in(tmp_path, script) as queue:
        queue.open()
        job = await added(queue, 1)
        await told(queue, job)
        script.open.clear()
        tries = await asyncio.gather(*(queue.retry(job) for _ in range(8)), return_exceptions=True)
        assert tries.count(None) == 1
        assert all(isinstance(one, InvalidPayload | None) for one in tries)
        await until(lambda: len(script.begun) == 2)
        script.open.set()
        await told(queue, job)
        assert (script.begun, queue.counts()["retried"]) == ([1, 1], 1)
