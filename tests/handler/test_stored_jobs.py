"""Jobs as any worker may be asked for them: two workers with a place in common, and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json

import pytest
from places import KEYS, KINDS, bucket_server, in_bucket, in_directory, killed
from running import Gate
from worker import GRAPH, until, worker

from handler.engine.events import Failed, Started
from handler.engine.memory import PIXEL
from handler.errors import (
    ExecutionFailed,
    HandlerError,
    InvalidPayload,
    JobCancelled,
    NotFound,
    ResultGone,
)
from handler.job import Phase
from handler.settings import Settings
from handler.submission import Submission

PAYLOAD = {"prompt": GRAPH, "id": "mine"}
KEYED = Submission(key="http:k")
UNDER_WAY = ("received", "fetching", "queued", "running")
LATER = Submission(respond_async=True)


@pytest.fixture(scope="module")
def endpoint():
    """A store that speaks S3."""
    with bucket_server() as url:
        yield url


@pytest.fixture(params=KINDS)
def common(request, tmp_path, monkeypatch):
    """Settings of workers that have a place in common."""
    if request.param == "directory":
        return in_directory(tmp_path)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return in_bucket(request.getfixturevalue("endpoint"))


@contextlib.asynccontextmanager
async def two(tmp_path, settings, **engine):
    """Give two workers, A and B; the engine of A is as told."""
    async with (
        worker(tmp_path / "a", settings, **engine) as (a, _),
        worker(tmp_path / "b", settings) as (b, engine_b),
    ):
        yield a, b, engine_b


async def told(answering):
    async with await answering as answer:
        return await answer.json()


async def failure(answering):
    with pytest.raises(HandlerError) as caught:
        await answering
    return caught.value


async def bytes_of(handler, name, *span):
    record, output = await handler.stored.output("mine", name)
    async with await handler.stored.open(record, output, *span) as file:
        return b"".join([block async for block in file.blocks()])


async def all_events(handler, job_id="mine", after=0):
    return [event async for event in handler.stored.events(job_id, after)]


def happened(events):
    return [event for event in events if event.type != "progress"]


# -- two workers ----------------------------------------------------------------------------------


async def test_another_worker_answers_the_same_key_while_it_runs_and_after(tmp_path, common):
    """And the poll, and the output in parts; one run in all."""
    gate = Gate()
    async with two(tmp_path, common, script=gate) as (a, b, engine_b):
        first = asyncio.create_task(told(a.handle(PAYLOAD, KEYED)))
        await until(lambda: gate.begun)
        second = asyncio.create_task(told(b.handle(PAYLOAD, KEYED)))
        assert (await b.stored.public("mine"))["status"] in UNDER_WAY
        assert await b.stored.result("mine") is None
        gate.open.set()
        one, other = await first, await second
        assert one["images"] == other["images"]
        assert one["outputs"] == other["outputs"]
        assert (await told(b.handle(PAYLOAD, KEYED)))["images"] == one["images"]
        assert (await told(b.stored.result("mine")))["images"] == one["images"]

        public = await b.stored.public("mine")
        (output,) = public["outputs"]
        assert (public["status"], public["stats"]) == ("succeeded", one["stats"])
        assert output["href"] == f"/jobs/mine/outputs/{output['name']}"
        whole = await bytes_of(b, output["name"])
        assert hashlib.sha256(whole).hexdigest() == output["sha256"]
        assert await bytes_of(b, output["name"], 3, 7) == whole[3:8]
        assert engine_b.prompts == []


async def test_another_worker_tells_the_events(tmp_path, common):
    """What happened, in order, and the end; none of it twice after a reconnect."""
    gate = Gate()
    async with two(tmp_path, common, script=gate) as (a, b, _):
        await a.enter(PAYLOAD, LATER)
        await until(lambda: gate.begun)
        following = asyncio.create_task(all_events(b))
        gate.open.set()
        async with asyncio.timeout(20):
            events = await following
        assert events[-1].type == "succeeded"
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert await all_events(b, after=events[-2].seq) == events[-1:]
        here = {event.seq: event.type for event in await all_events(a)}
        assert all(here[event.seq] == event.type for event in events)


async def test_another_worker_cancels(tmp_path, common):
    """The one that has the job heeds the order; the key tells the same everywhere."""
    gate = Gate()
    async with two(tmp_path, common, script=gate) as (a, b, _):
        call = asyncio.create_task(a.handle(PAYLOAD, KEYED))
        await until(lambda: gate.begun)
        assert (await b.stored.cancel("mine"))["cancelled"] is True
        with pytest.raises(JobCancelled) as cancelled:
            await call
        again = await failure(b.handle(PAYLOAD, KEYED))
        assert again.envelope() == cancelled.value.envelope()
        assert (await b.stored.cancel("mine")) == {
            "id": "mine",
            "status": "cancelled",
            "cancelled": False,
        }


async def test_another_worker_tells_the_failure(tmp_path, common):
    """With the same envelope and status."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    async with two(tmp_path, common, script=script) as (a, b, engine_b):
        first = await failure(a.handle(PAYLOAD, KEYED))
        second = await failure(b.handle(PAYLOAD, KEYED))
        assert isinstance(first, ExecutionFailed)
        assert (second.envelope(), second.status) == (first.envelope(), 500)
        assert engine_b.prompts == []


async def test_a_plain_id_is_one_run_on_whatever_worker(tmp_path, common):
    """Of those that are sent at once."""
    gate = Gate()
    async with two(tmp_path, common, script=gate) as (a, b, engine_b):
        engine_b.script = gate
        first, second = await asyncio.gather(a.enter(PAYLOAD), b.enter(PAYLOAD))
        assert [first.mine, second.mine].count(None) == 1
        gate.open.set()
        one, other = await asyncio.gather(told(a.answer(first)), told(b.answer(second)))
        assert one["images"] == other["images"]
        assert len(gate.begun) == 1


async def test_who_waits_at_another_worker_is_not_left_alone(tmp_path, common):
    """The first caller goes away; the job goes on for the other, and ends with nobody."""
    gate = Gate()
    async with two(tmp_path, common, script=gate) as (a, b, _):
        for leave in (False, True):
            gate.begun.clear()
            first = asyncio.create_task(a.handle(PAYLOAD))
            await until(lambda: gate.begun)
            entry = await b.enter(PAYLOAD)
            assert entry.mine is None
            second = asyncio.create_task(told(b.answer(entry)))
            async with asyncio.timeout(10):
                while not await a._ledger.wanted(a.find("mine")):
                    await asyncio.sleep(0.01)
            if leave:
                second.cancel()
                await asyncio.wait({second})
                async with asyncio.timeout(10):
                    while await a._ledger.wanted(a.find("mine")):
                        await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.wait({first})
            if leave:
                await a.find("mine").ended()
                assert a.find("mine").phase is Phase.CANCELLED
            else:
                await until(lambda: not a._closing)
                gate.open.set()
                assert (await second)["images"]
            gate.open.clear()


async def test_an_id_is_free_for_another_payload_when_its_job_is_over(tmp_path, common):
    """Right after the answer, before anything else."""
    async with worker(tmp_path / "a", common) as (a, _):
        for number in range(4):
            payload = {**PAYLOAD, "include_temp": bool(number % 2)}
            assert (await told(a.handle(payload)))["images"]


async def test_a_lost_workers_job_has_failed_and_may_be_sent_again(tmp_path, common):
    """Another worker says so, tells its end, and runs it under the same key."""
    lost = await killed(common, tmp_path / "a", PAYLOAD, "http:k")
    async with worker(tmp_path / "b", common) as (b, _):
        async with asyncio.timeout(20):
            while not (await b.stored.record("mine")).final:
                await asyncio.sleep(0.01)
        public = await b.stored.public("mine")
        assert (public["status"], public["instance"]) == ("failed", lost.instance)
        assert public["error"]["code"] == "worker_lost"
        assert (await failure(b.stored.result("mine"))).retryable
        events = await all_events(b)
        assert [event.type for event in events] == ["failed"]
        assert await all_events(b, after=events[-1].seq) == []
        assert (await told(b.handle(PAYLOAD, KEYED)))["images"]


async def test_a_newer_run_elsewhere_counts(tmp_path, common):
    """A worker that has had the id before asks whether it is still the one."""
    async with two(tmp_path, common) as (a, b, _):
        await told(a.handle(PAYLOAD))
        await a._ledger.flush()
        gate = Gate()
        b._engine.script = gate
        assert (await a.stored.public("mine"))["status"] == "succeeded"
        again = asyncio.create_task(b.handle({**PAYLOAD, "include_temp": True}))
        await until(lambda: gate.begun)
        assert (await a.stored.public("mine"))["status"] != "succeeded"
        assert (await a.stored.cancel("mine"))["cancelled"] is True
        with pytest.raises(JobCancelled):
            await again
        await b._ledger.flush()
        assert (await a.stored.public("mine"))["status"] == "cancelled"


async def test_a_page_lists_the_jobs_of_all_workers(tmp_path, common):
    """By state and adapter, page by page, the newest first."""
    async with two(tmp_path, common) as (a, b, _):
        for number, handler in enumerate((a, b, a)):
            how = Submission(adapter="runpod" if number == 1 else "http")
            await told(handler.handle({**PAYLOAD, "id": f"job-{number}"}, how))
        for handler in (a, b):
            await handler._ledger.flush()
        first = await b.stored.page(None, None, None, 2)
        assert [job["id"] for job in first["jobs"]] == ["job-2", "job-1"]
        rest = await b.stored.page(None, None, first["next"], 2)
        assert [job["id"] for job in rest["jobs"]] == ["job-0"]
        of_runpod = await a.stored.page("over", "runpod", None, 9)
        assert [job["id"] for job in of_runpod["jobs"]] == ["job-1"]
        assert (await a.stored.page("active", None, None, 9))["jobs"] == []
        with pytest.raises(InvalidPayload):
            await a.stored.page(None, None, "no page", 9)


# -- a restart ------------------------------------------------------------------------------------


async def test_a_restart_forgets_nothing(tmp_path):
    """Records, results, outputs and events with their numbers."""
    async with worker(tmp_path) as (handler, _):
        await handler.enter(PAYLOAD, LATER)
        await handler.find("mine").ended()
        before = await told(handler.stored.result("mine"))
        public = await handler.stored.public("mine")
        events = await all_events(handler)
    async with worker(tmp_path) as (handler, engine):
        assert handler.find("mine") is None
        after = await told(handler.stored.result("mine"))
        assert after["images"] == before["images"]
        (output,) = (await handler.stored.public("mine"))["outputs"]
        assert output == public["outputs"][0]
        assert hashlib.sha256(await bytes_of(handler, output["name"])).hexdigest() == (
            hashlib.sha256(PIXEL).hexdigest()
        )
        read = await all_events(handler)
        assert happened(read) == happened(events)  # fast steps are not all written
        assert set(map(repr, read)) <= set(map(repr, events))
        assert await all_events(handler, after=3) == [one for one in read if one.seq > 3]
        assert engine.prompts == []


async def test_a_job_under_way_when_the_process_died_has_failed(tmp_path):
    """The next process says so at once, and its followers are told the end."""
    await killed(Settings(), tmp_path, PAYLOAD, "http:k")
    async with worker(tmp_path) as (handler, _):
        public = await handler.stored.public("mine")
        assert (public["status"], public["error"]["code"]) == ("failed", "worker_lost")
        assert public["error"]["retryable"] is True
        assert [event.type for event in await all_events(handler)] == ["failed"]
        assert (await told(handler.handle(PAYLOAD, KEYED)))["images"]


async def test_an_unknown_id_is_told_with_who_answers_and_why(tmp_path):
    """Local state only: another worker may know it."""
    async with worker(tmp_path, Settings(instance_id="pod-7")) as (handler, _):
        for asking in (
            handler.stored.public("nope"),
            handler.stored.result("nope"),
            handler.stored.output("nope", "x.png"),
            handler.stored.archive("nope"),
            handler.stored.cancel("nope"),
            all_events(handler, "nope"),
        ):
            fault = await failure(asking)
            assert isinstance(fault, NotFound)
            assert "pod-7" in fault.message
            assert "STATE_URL" in fault.hint


# -- one worker -----------------------------------------------------------------------------------


async def test_outputs_that_were_answered_are_not_kept(tmp_path):
    """And that is said."""
    async with worker(tmp_path) as (handler, _):
        await told(handler.handle(PAYLOAD))
        public = await handler.stored.public("mine")
        assert "href" not in public["outputs"][0]
        with pytest.raises(ResultGone):
            await handler.stored.result("mine")
        with pytest.raises(NotFound) as caught:
            await handler.stored.output("mine", public["outputs"][0]["filename"])
        assert caught.value.details == {"status": "succeeded", "kept": []}
        with pytest.raises(NotFound):
            await handler.stored.archive("mine")


async def test_kept_outputs_are_given_as_one_file(tmp_path):
    """Names, sizes and bytes."""
    async with worker(tmp_path) as (handler, _):
        await handler.enter(PAYLOAD, LATER)
        await handler.find("mine").ended()
        (entry,) = await handler.stored.archive("mine")
        with entry.open() as file:
            assert len(file.read()) == entry.bytes


async def test_an_output_that_is_gone_is_told(tmp_path):
    """OUTPUT_RETENTION_S was over between two requests."""
    async with worker(tmp_path) as (handler, _):
        await handler.enter(PAYLOAD, LATER)
        await handler.find("mine").ended()
        (name,) = [one["name"] for one in (await handler.stored.public("mine"))["outputs"]]
        record, output = await handler.stored.output("mine", name)
        state = await handler._ledger.opened()
        await state.kept.expire(record.created + 10**8)
        with pytest.raises(NotFound):
            await handler.stored.open(record, output)
        (entry,) = await handler.stored.archive("mine")
        with pytest.raises(OSError, match="not kept any more"):
            entry.open()
        with pytest.raises(ResultGone):
            await handler.stored.result("mine")


async def test_events_that_memory_has_let_go_of_come_from_the_disk(tmp_path):
    """A long job's first ones."""
    async with worker(tmp_path) as (handler, _):
        await handler.enter(PAYLOAD, LATER)
        job = handler.find("mine")
        await job.ended()
        whole = happened(await all_events(handler))
        while job._events[0].seq < 4:
            job._events.popleft()
        assert happened(await all_events(handler)) == whole


async def test_a_wrong_name_is_answered_with_the_right_ones(tmp_path):
    """What is kept is told by name."""
    async with worker(tmp_path) as (handler, _):
        await handler.enter(PAYLOAD, LATER)
        await handler.find("mine").ended()
        (name,) = [one["name"] for one in (await handler.stored.public("mine"))["outputs"]]
        fault = await failure(handler.stored.output("mine", "other.png"))
        assert isinstance(fault, NotFound)
        assert repr(name) in fault.hint
        assert "not kept" not in fault.hint
        assert fault.details["kept"] == [name]


async def test_a_spilled_result_can_be_had_again(tmp_path):
    """The link was for the first who asked, and the storage is not the caller's."""
    folder = tmp_path / "mount"
    folder.mkdir()
    settings = Settings(output_storage=json.dumps({"volume": {"path": str(folder)}}))
    how = Submission(key="http:k", inline_bytes=1)
    async with worker(tmp_path / "home", settings) as (handler, engine):
        first, again = (
            await told(handler.handle(PAYLOAD, how)),
            await told(handler.handle(PAYLOAD, how)),
        )
        assert first["stats"]["spilled"]
        assert again["images"] == first["images"]
        (output,) = (await handler.stored.public("mine"))["outputs"]
        assert output["href"] == f"/jobs/mine/outputs/{output['name']}"
        assert output["url"] == first["images"][0]
        assert await bytes_of(handler, output["name"]) == PIXEL
        assert len(engine.prompts) == 1
