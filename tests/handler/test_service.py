"""The handler on an engine in memory: admission, slots, cancelling, draining, health."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
import tracemalloc
from dataclasses import replace

import pytest
from running import Gate
from worker import GRAPH, parts_in, until, worker

from handler.engine.base import EngineState, NeverStarted
from handler.engine.events import Failed, NodeOutput, Preview, Started, Succeeded
from handler.engine.memory import PIXEL, save_pictures
from handler.errors import (
    BootFailed,
    Draining,
    EngineDied,
    ExecutionFailed,
    HandlerError,
    InternalFault,
    InvalidPayload,
    InvalidWorkflow,
    JobCancelled,
    NotFound,
    NotReady,
    QueueFull,
    QueueTimedOut,
)
from handler.health import Health
from handler.job import JobEvent, Phase
from handler.payload import parse_payload
from handler.pipeline.stages import CONVERTERS
from handler.service import Handler
from handler.settings import Settings
from handler.submission import Submission
from handler.turns import RESUBMITS
from handler.wire import Answer

PAYLOAD = {"prompt": GRAPH}
WARM = '{"1": {"class_type": "SaveImage", "inputs": {}}}'


def fails(*errors):
    """A script whose runs raise these in turn, then succeed."""
    ahead = list(errors)

    async def script(prompt, files):
        if ahead:
            error = ahead.pop(0)
            if not isinstance(error, NeverStarted):
                yield Started(1)
            raise error
        async for event in save_pictures(prompt, files):
            yield event

    return script


async def ended(job):
    """Wait for a job's end, whatever it is."""
    await asyncio.wait({job.task}, timeout=10)
    assert job.phase.final


def left(home, *more):
    """Files of jobs that are still there."""
    roots = [home / name for name in ("input", "output", "scratch", *more)]
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


# -- a job ----------------------------------------------------------------------------------------


async def test_a_payload_becomes_an_answer_that_owns_its_files(tmp_path):
    """Closing the answer removes them."""
    async with worker(tmp_path) as (handler, _):
        async with await handler.handle({**PAYLOAD, "id": "me"}) as answer:
            assert [output.filename for output in answer.outputs] == ["me_x_00001_.png"]
            assert left(tmp_path)
            assert (await answer.json())["id"] == "me"
        assert left(tmp_path) == []
        job = handler.find("me")

    assert job.phase is Phase.SUCCEEDED
    assert list(job.stage_s) == [
        *("received", "fetching", "queued", "running", "collecting", "delivering")
    ]


async def test_a_checked_request_is_taken_as_it_is(tmp_path):
    """Adapters may check before; an id is drawn where none is sent."""
    async with worker(tmp_path) as (handler, _):
        first = handler.submit(parse_payload(PAYLOAD))
        second = handler.submit(PAYLOAD)
        assert first.id != second.id
        for job in (first, second):
            await (await handler.result(job)).close()


async def test_a_payload_that_does_not_fit_makes_no_job(tmp_path):
    """It is refused at once."""
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(InvalidPayload):
            handler.submit({"prompt": GRAPH, "id": ""})
        assert handler.health().running == handler.health().waiting == 0


async def test_two_jobs_with_one_id_do_not_meet(tmp_path):
    """Folders are named by an unguessable name of ours."""
    async with worker(tmp_path) as (handler, _):
        jobs = [handler.submit({**PAYLOAD, "id": "same"}) for _ in range(2)]
        answers = [await handler.result(job) for job in jobs]
        paths = {output.path for answer in answers for output in answer.outputs}
        assert len(paths) == 2
        assert handler.find("same") is jobs[1]
        for answer in answers:
            await answer.close()


async def test_a_stream_gives_events_in_order_and_the_answer_last(tmp_path):
    """What a caller sees who wants progress."""
    async with worker(tmp_path) as (handler, _):
        told = [item async for item in handler.stream(PAYLOAD)]

        events, answer = told[:-1], told[-1]
        assert isinstance(answer, Answer)
        assert all(isinstance(event, JobEvent) for event in events)
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        assert {"phase", "progress", "output"} < {e.type for e in events}
        assert events[-1].type == "succeeded"
        await answer.close()
        assert left(tmp_path) == []


async def test_a_stream_raises_how_the_job_ended(tmp_path):
    """After its last event."""
    async with worker(tmp_path, script=fails(EngineDied("gone"))) as (handler, _):
        told = []

        async def follow():
            async for item in handler.stream(PAYLOAD):
                told.append(item)

        with pytest.raises(EngineDied):
            await follow()
        assert told[-1].type == "failed"
        assert left(tmp_path) == []


@pytest.mark.parametrize("until_type", ["phase", "progress", "output", "succeeded"])
async def test_a_stream_that_is_left_leaves_no_files(tmp_path, until_type):
    """Wherever the caller goes away, its last event included."""
    async with worker(tmp_path) as (handler, _):
        stream = handler.stream({**PAYLOAD, "id": "left"})
        async for item in stream:
            if item.type == until_type:
                break
        await stream.aclose()
        await ended(handler.find("left"))
        await until(lambda: left(tmp_path) == [])


async def test_a_node_that_raises_fails_the_job_with_its_node(tmp_path):
    """The engine is well and takes the next."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "bad")

    async with worker(tmp_path, script=script) as (handler, engine):
        with pytest.raises(ExecutionFailed) as caught:
            await handler.handle(PAYLOAD)
        assert (caught.value.node_id, caught.value.node_title) == ("2", "the picture")
        assert left(tmp_path) == []
        engine.script = save_pictures
        await (await handler.handle(PAYLOAD)).close()


async def test_a_result_is_given_once(tmp_path):
    """The record that stays holds neither the answer nor the error."""
    async with worker(tmp_path) as (handler, engine):
        good = handler.submit(PAYLOAD)
        await (await handler.result(good)).close()
        engine.script = fails(EngineDied("gone"))
        bad = handler.submit(PAYLOAD)
        with pytest.raises(EngineDied):
            await handler.result(bad)

        for job in (good, bad):
            assert job.answered is None
            with pytest.raises(NotFound, match="given already"):
                await handler.result(job)


async def told_everything(prompt, files):
    """A script with a preview, a file beside the job's folder, and a long text."""
    yield Started(1)
    temp = {"filename": f"{prompt.prompt_id}.png", "subfolder": "", "type": "temp"}
    loose = {"filename": f"loose-{prompt.prompt_id}.png", "subfolder": ""}
    for item in (temp, loose):
        files.locate(item).write_bytes(PIXEL)
    text = {"text": ["x" * 2_000_000], "html": [{"body": "y" * 2_000_000}]}
    yield NodeOutput("2", {"images": [temp, loose], **text})


async def tells_and_succeeds(prompt, files):
    async for event in told_everything(prompt, files):
        yield event
    yield Succeeded(2)


async def tells_and_fails(prompt, files):
    async for event in told_everything(prompt, files):
        yield event
    yield Failed("2", "SaveImage", "ValueError", "z" * 2_000_000, ("line",))


async def tells_and_waits(prompt, files):
    async for event in told_everything(prompt, files):
        yield event
    await asyncio.Event().wait()


@pytest.mark.parametrize("script", [tells_and_succeeds, tells_and_fails, tells_and_waits])
async def test_previews_and_loose_files_go_however_a_job_ends(tmp_path, script):
    """The engine's temp folder would fill the disk one job at a time."""
    async with worker(tmp_path, script=script) as (handler, _):
        job = handler.submit(PAYLOAD)
        if script is tells_and_waits:
            await until(lambda: len(left(tmp_path, "temp")) == 2)
            handler.cancel(job.id)
        with contextlib.suppress(HandlerError):
            async with await handler.result(job):
                assert len(left(tmp_path, "temp")) == 2
        await until(lambda: left(tmp_path, "temp") == [])
        assert job.strays == set()


HOWS = {
    "plain": Submission(),
    "keyed": Submission(key="http:k"),
    "later": Submission(respond_async=True),
    "joined": Submission(),
}


async def run_to_its_end(handler, payload, what, number):
    """Send a job as is told, wait for all of it, and close what it answers."""
    key = HOWS[what].key and f"http:{number}"
    how = replace(HOWS[what], key=key)
    callers = 2 if what == "joined" else 1
    entries = [await handler.enter({**payload, "id": f"job-{number}"}, how) for _ in range(callers)]
    if what == "later":
        await entries[0].job.ended()
    else:
        for entry in entries:
            with contextlib.suppress(HandlerError):
                async with await handler.answer(entry) as answer:
                    await answer.json()
    await handler._ledger.flush()
    await until(lambda: not handler._endings._tasks)


@pytest.mark.parametrize("what", HOWS)
@pytest.mark.parametrize("script", [tells_and_succeeds, tells_and_fails])
async def test_records_of_large_jobs_are_small(tmp_path, script, what):
    """A graph, a text and an exception of megabytes each leave some kilobytes for the hour."""
    text = json.dumps({**GRAPH, "1": {**GRAPH["1"], "_meta": {"title": "T" * 1_000_000}}})
    jobs = 8
    async with worker(tmp_path, script=script) as (handler, engine):

        async def one(number):
            await run_to_its_end(handler, {"prompt": json.loads(text)}, what, number)
            engine.prompts.clear()
            await asyncio.sleep(0)  # the loop lets go of what it woke this task with

        await one(jobs)
        tracemalloc.start()
        try:
            for number in range(jobs):
                await one(number)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert kept / jobs < 200_000


async def test_a_job_that_is_refused_leaves_a_small_record(tmp_path):
    """Thousands of faults in a graph of megabytes."""
    bad = {str(n): {"class_type": f"Nope{n}" + "x" * 1000, "inputs": {}} for n in range(3000)}
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(InvalidWorkflow):
            await handler.handle({"prompt": bad, "id": "bad"})

        job = handler.find("bad")
        assert job.error.__traceback__ is None
        assert len(json.dumps([job.public(), [event.data for event in job._events]])) < 500_000


async def test_a_frame_that_cannot_be_written_fails_the_job(tmp_path):
    """Never a success without the picture; the engine is well and takes the next."""

    async def frame(prompt, files):
        yield Started(1)
        (tmp_path / "scratch" / job.uid).write_bytes(b"where the folder should be")
        yield Preview("2", "image/png", PIXEL)
        yield Succeeded(2)

    async with worker(tmp_path, script=frame) as (handler, engine):
        job = handler.submit(PAYLOAD)
        with pytest.raises(InternalFault, match="could not be kept") as caught:
            await handler.result(job)
        assert caught.value.retryable
        engine.script = save_pictures
        await (await handler.handle(PAYLOAD)).close()


async def test_a_fault_of_ours_is_an_error_with_no_secrets(tmp_path, caplog):
    """The log has the traceback, the caller the kind."""

    async def script(prompt, files):
        yield Started(1)
        raise ZeroDivisionError("s3cret")

    async with worker(tmp_path, script=script) as (handler, _):
        with pytest.raises(InternalFault) as caught:
            await handler.handle(PAYLOAD)

    assert caught.value.message == "internal fault: ZeroDivisionError"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "s3cret" in caplog.text
    assert "s3cret" not in str(caught.value.envelope())


# -- the queue ------------------------------------------------------------------------------------


async def test_jobs_run_in_the_order_they_came(tmp_path):
    """With as many in the engine's hands as ENGINE_PREFETCH says."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=2), script=gate) as (handler, engine):
        jobs = [handler.submit({**PAYLOAD, "id": f"j{number}"}) for number in range(5)]
        await until(lambda: [handler.position(job) for job in jobs] == [0, 1, 2, 3, 4])

        assert len(engine.prompts) == 2
        assert len(gate.begun) == 1
        assert [job.phase for job in jobs] == [Phase.RUNNING] + [Phase.QUEUED] * 4
        assert (handler.health().waiting, handler.health().running) == (4, 1)
        gate.open.set()
        for job in jobs:
            await (await handler.result(job)).close()

        order = [prompt.graph["2"]["inputs"]["filename_prefix"] for prompt in gate.begun]
        assert [prefix.rsplit("/", 1)[1] for prefix in order] == [f"j{n}_x" for n in range(5)]
        assert handler.position(jobs[0]) is None
        assert repr(handler) == "<Handler ready <Turns <Slots 0/2 waiting=0>>>"


async def test_followers_see_their_position_change(tmp_path):
    """First where the job queues, then each time the line moves."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=1), script=gate) as (handler, _):
        first = handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        events = []

        async def follow():
            async for item in handler.stream(PAYLOAD):
                events.append(item)

        following = asyncio.create_task(follow())
        await until(lambda: any(e.data.get("position") == 1 for e in events))
        between = handler.submit(PAYLOAD)
        await until(lambda: handler.position(between) == 2)
        gate.open.set()
        await following
        for job in (first, between):
            await (await handler.result(job)).close()
        await events.pop().close()

    positions = [e.data["position"] for e in events if "position" in e.data]
    assert positions[0] == 1
    assert all(position <= 1 for position in positions)


async def test_over_the_queues_depth_jobs_are_refused(tmp_path):
    """429 with a time to come again; room makes it ready again."""
    gate = Gate()
    settings = Settings(engine_prefetch=1, max_queue_depth=2)
    async with worker(tmp_path, settings, script=gate) as (handler, _):
        running = handler.submit(PAYLOAD)
        await until(lambda: running.phase is Phase.RUNNING)
        waiting = [handler.submit(PAYLOAD) for _ in range(2)]
        with pytest.raises(QueueFull) as caught:
            handler.submit(PAYLOAD)

        assert caught.value.retry_after_s >= 1
        assert handler.health().health is Health.OVERLOADED
        assert "2 jobs wait" in handler.health().reason
        gate.open.set()
        for job in (running, *waiting):
            await (await handler.result(job)).close()
        assert handler.health().ready
        await (await handler.handle(PAYLOAD)).close()


async def test_no_limit_is_no_limit(tmp_path):
    """MAX_QUEUE_DEPTH=0."""
    gate = Gate()
    async with worker(tmp_path, Settings(max_queue_depth=0), script=gate) as (handler, _):
        jobs = [handler.submit(PAYLOAD) for _ in range(50)]
        assert handler.health().ready
        gate.open.set()
        for job in jobs:
            await (await handler.result(job)).close()


@pytest.mark.parametrize("own", [True, False])
async def test_a_job_waits_no_longer_than_its_limit(tmp_path, own):
    """The operator's, or its own; the slot of the other is not touched."""
    gate = Gate()
    settings = Settings(engine_prefetch=1, queue_timeout_s=0.0 if own else 0.02)
    async with worker(tmp_path, settings, script=gate) as (handler, _):
        first = handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        keys = {"timeouts": {"queue_s": 0.02}} if own else {}
        with pytest.raises(QueueTimedOut, match=r"busy for 0\.02 s") as caught:
            await handler.handle({**PAYLOAD, **keys})
        assert caught.value.retry_after_s >= 1
        gate.open.set()
        await (await handler.result(first)).close()
        assert left(tmp_path) == []


async def test_the_next_job_fetches_while_one_runs(tmp_path):
    """A slow input of one job holds up no other, and needs no slot."""
    gate, asked, answer = Gate(), asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        asked.set()
        await answer.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    load = {"1": {"class_type": "LoadImage", "inputs": {"image": url}}, "2": GRAPH["2"]}
    async with worker(tmp_path, Settings(engine_prefetch=1), script=gate) as (handler, _):
        slow = handler.submit({"prompt": load})
        await asyncio.wait_for(asked.wait(), 10)
        quick = handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        assert (slow.phase, quick.phase) == (Phase.FETCHING, Phase.RUNNING)
        gate.open.set()
        await (await handler.result(quick)).close()
        handler.cancel(slow.id)
        await ended(slow)
        assert left(tmp_path) == []
    answer.set()
    server.close()
    await server.wait_closed()


# -- an engine that ends --------------------------------------------------------------------------


async def test_a_prompt_that_never_started_is_handed_in_again(tmp_path):
    """Under a new id; the caller sees nothing of it."""
    script = fails(*[NeverStarted("gone")] * (RESUBMITS - 1))
    async with worker(tmp_path, script=script) as (handler, engine):
        await (await handler.handle(PAYLOAD)).close()

        assert len(engine.prompts) == RESUBMITS
        assert len({prompt.prompt_id for prompt in engine.prompts}) == RESUBMITS


async def test_it_is_not_handed_in_for_ever(tmp_path):
    """An engine that dies of the prompt before it begins would be killed again and again."""
    script = fails(*[NeverStarted("gone")] * RESUBMITS)
    async with worker(tmp_path, script=script) as (handler, engine):
        with pytest.raises(EngineDied):
            await handler.handle(PAYLOAD)
        assert len(engine.prompts) == RESUBMITS
        await (await handler.handle(PAYLOAD)).close()


async def test_a_prompt_that_began_is_not_handed_in_again(tmp_path):
    """It may be what killed the engine."""
    async with worker(tmp_path, script=fails(EngineDied("gone"))) as (handler, engine):
        with pytest.raises(EngineDied):
            await handler.handle(PAYLOAD)
        assert len(engine.prompts) == 1


async def test_jobs_wait_while_the_engine_restarts(tmp_path):
    """They are not refused; the worker says that it recovers."""
    async with worker(tmp_path) as (handler, engine):
        engine.enter(EngineState.RESTARTING, "it ended")
        job = handler.submit(PAYLOAD)
        report = handler.health()
        assert (report.health, report.reason) == (Health.RECOVERING, "it ended")
        assert not job.answered.done()
        engine.enter(EngineState.READY, None)
        await (await handler.result(job)).close()


async def test_an_engine_that_is_given_up_fails_who_waits_and_who_comes(tmp_path):
    """The worker is to be replaced."""
    async with worker(tmp_path) as (handler, engine):
        engine.enter(EngineState.RESTARTING, "it ended")
        job = handler.submit(PAYLOAD)
        await asyncio.sleep(0)
        engine.enter(EngineState.FAILED, "given up")
        with pytest.raises(NotReady, match="given up"):
            await handler.result(job)
        with pytest.raises(NotReady):
            handler.submit(PAYLOAD)
        with pytest.raises(NotReady):
            await handler.models()

        report = handler.health()
        assert (report.health, report.alive, report.reason) == (
            Health.UNHEALTHY,
            False,
            "given up",
        )


async def test_a_boot_that_fails_is_told_to_everybody(tmp_path):
    """With the hint and the engine's words."""
    async with worker(tmp_path, start=False) as (handler, engine):
        waiting = handler.submit(PAYLOAD)
        assert handler.health().health is Health.STARTING
        engine.boot_error = BootFailed("no GPU", hint="buy one", log_tail=["boom"])
        with pytest.raises(BootFailed):
            await handler.start()
        with pytest.raises(NotReady, match="no GPU") as caught:
            await handler.result(waiting)

        assert (caught.value.hint, caught.value.log_tail) == ("buy one", ["boom"])
        report = handler.health()
        assert (report.health, report.started) == (Health.UNHEALTHY, False)


async def test_jobs_that_come_during_the_boot_wait_for_it(tmp_path):
    """The port is open before the engine answers."""
    async with worker(tmp_path, start=False) as (handler, _):
        job = handler.submit(PAYLOAD)
        models = asyncio.create_task(handler.models())
        await asyncio.sleep(0)
        assert not handler.health().started
        await handler.start()
        await (await handler.result(job)).close()
        assert await models == {"checkpoints": []}
        assert handler.health().started


# -- cancelling -----------------------------------------------------------------------------------


async def cancelled(handler, job):
    assert handler.cancel(job.id)
    with pytest.raises(JobCancelled):
        async with asyncio.timeout(10):
            await handler.result(job)
    assert job.phase is Phase.CANCELLED
    assert not handler.cancel(job.id)


async def test_a_cancel_before_the_first_step_ends_the_job(tmp_path):
    """In the very moment of the submit: nobody waits for ever."""
    async with worker(tmp_path) as (handler, engine):
        await cancelled(handler, handler.submit(PAYLOAD))
        assert engine.prompts == []


async def test_a_cancel_during_the_boot_ends_the_job(tmp_path):
    """It waits for an engine that is not there yet."""
    async with worker(tmp_path, start=False) as (handler, _):
        job = handler.submit(PAYLOAD)
        await asyncio.sleep(0)
        await cancelled(handler, job)


async def test_a_cancel_in_the_line_leaves_the_line(tmp_path):
    """The engine never hears of it."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=1), script=gate) as (handler, engine):
        first = handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        second = handler.submit(PAYLOAD)
        await until(lambda: handler.position(second) == 1)
        await cancelled(handler, second)
        assert (engine.cancelled, len(engine.prompts)) == ([], 1)
        gate.open.set()
        await (await handler.result(first)).close()
        assert left(tmp_path) == []


async def test_a_cancel_of_a_running_job_interrupts_it_alone(tmp_path):
    """The next one takes its slot."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=1), script=gate) as (handler, engine):
        first, second = handler.submit({**PAYLOAD, "id": "a"}), handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        await cancelled(handler, first)
        await until(lambda: len(gate.begun) == 2)
        assert engine.cancelled == [engine.prompts[0].prompt_id]
        gate.open.set()
        await (await handler.result(second)).close()
        assert left(tmp_path) == []


async def test_a_cancel_of_a_prefetched_job_deletes_it(tmp_path):
    """It waits in the engine's own queue."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=2), script=gate) as (handler, engine):
        first, second = handler.submit(PAYLOAD), handler.submit(PAYLOAD)
        await until(lambda: len(engine.prompts) == 2)
        await cancelled(handler, second)
        assert engine.cancelled == [engine.prompts[1].prompt_id]
        gate.open.set()
        await (await handler.result(first)).close()
        assert len(gate.begun) == 1


async def test_a_cancelled_run_that_does_not_stop_costs_the_engine_a_restart(tmp_path):
    """The caller is answered at once; the slot is held until the engine is rid of the run."""
    gate = Gate()
    settings = Settings(engine_prefetch=1, cancel_grace_s=0.05)
    async with worker(tmp_path, settings, script=gate) as (handler, engine):
        engine.stubborn = True
        first, second = handler.submit({**PAYLOAD, "id": "a"}), handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        await cancelled(handler, first)
        assert handler.position(second) == 1
        gate.open.set()
        engine.script = save_pictures
        await (await handler.result(second)).close()
        await until(lambda: left(tmp_path) == [])

    assert engine.restarts == [] or "job a was cancelled" in engine.restarts[0]


async def test_a_stubborn_run_is_ended_after_the_grace(tmp_path):
    """CANCEL_GRACE_S, then the engine is restarted and the next job runs."""
    gate = Gate()
    settings = Settings(engine_prefetch=1, cancel_grace_s=0.05)
    async with worker(tmp_path, settings, script=gate) as (handler, engine):
        engine.stubborn = True
        first = handler.submit({**PAYLOAD, "id": "a"})
        await until(lambda: gate.begun)
        await cancelled(handler, first)
        await until(lambda: engine.restarts)
        engine.script = save_pictures
        await (await handler.handle(PAYLOAD)).close()

    assert engine.restarts == ["job a was cancelled and does not stop"]


async def test_every_unfinished_job_of_the_id_is_cancelled_and_no_other(tmp_path):
    """Ids are the callers'."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        other = handler.submit({**PAYLOAD, "id": "other"})
        jobs = [handler.submit({**PAYLOAD, "id": "same"}) for _ in range(3)]
        await until(lambda: gate.begun)
        assert handler.cancel("same")
        assert not handler.cancel("unknown")
        for job in jobs:
            await ended(job)
        assert [job.phase for job in jobs] == [Phase.CANCELLED] * 3
        gate.open.set()
        await (await handler.result(other)).close()


async def test_a_caller_who_goes_away_cancels_its_job(tmp_path):
    """Cancelling the call is cancelling the job."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, engine):
        call = asyncio.create_task(handler.handle({**PAYLOAD, "id": "gone"}))
        await until(lambda: gate.begun)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
        job = handler.find("gone")
        await ended(job)
        await until(lambda: engine.cancelled)
        assert job.phase is Phase.CANCELLED
        assert left(tmp_path) == []


async def test_a_caller_who_goes_away_in_the_last_moment_leaves_no_files(tmp_path):
    """The answer is made already and nobody takes it."""
    async with worker(tmp_path) as (handler, _):
        job = handler.submit(PAYLOAD)
        call = asyncio.create_task(handler.result(job))
        await asyncio.wait({job.task})
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            await call.result().close()
        await until(lambda: left(tmp_path) == [])


async def test_a_cancel_while_outputs_are_converted_leaves_no_files(tmp_path):
    """The engine is done by then; our own work stops."""
    async with worker(tmp_path) as (handler, _):
        free = threading.Event()
        others = [handler._parts.converters.submit(free.wait, 20) for _ in range(CONVERTERS)]
        try:
            job = handler.submit({**PAYLOAD, "convert_output": {"format": "webp"}})
            await until(lambda: job.phase is Phase.CONVERTING)
            await cancelled(handler, job)
        finally:
            free.set()
        await until(lambda: left(tmp_path) == [])
        assert all(other.result(10) for other in others)


# -- draining and stopping ------------------------------------------------------------------------


async def test_a_drain_refuses_new_jobs_and_waits_for_those_in_hand(tmp_path):
    """All ended in time."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        job = handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        draining = asyncio.create_task(handler.drain())
        await until(lambda: handler.health().health is Health.DRAINING)
        with pytest.raises(Draining) as caught:
            handler.submit(PAYLOAD)
        assert caught.value.retry_after_s
        gate.open.set()
        assert await draining is True
        await (await handler.result(job)).close()


async def test_a_drain_cancels_what_does_not_end_in_time(tmp_path):
    """And says so."""
    async with worker(tmp_path, script=Gate()) as (handler, _):
        job = handler.submit(PAYLOAD)
        assert await handler.drain(0.02) is False
        assert job.phase is Phase.CANCELLED
        assert left(tmp_path) == []


async def test_a_drain_waits_for_a_download_that_somebody_waits_for(tmp_path):
    """Not longer than its limit; no other is taken, and one in the background is left at once."""
    async with worker(tmp_path) as (handler, _):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.ckpt"
            wanted = {"url": url, "model_type": "checkpoints"}
            await handler.downloads.begin(wanted)
            assert await handler.drain(20) is True
            with pytest.raises(Draining):
                await handler.downloads.begin(wanted)
    async with worker(tmp_path / "2") as (handler, _):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.ckpt"
            begun = await handler.downloads.begin({"url": url, "model_type": "checkpoints"})
            waiting = asyncio.create_task(handler.downloads.result(begun))
            await until(lambda: handler.downloads.awaited())
            assert await handler.drain(0.02) is False
            with pytest.raises(Draining):
                await waiting


async def test_a_drain_of_an_idle_worker_is_over_at_once(tmp_path):
    """There is nothing to wait for."""
    async with worker(tmp_path) as (handler, _):
        assert await handler.drain() is True


async def test_a_stop_cancels_everything(tmp_path):
    """Jobs in every place, runs that are being wound down, answers nobody took."""
    gate = Gate()
    async with worker(tmp_path, Settings(engine_prefetch=1), script=gate) as (handler, engine):
        engine.stubborn = True
        jobs = [handler.submit(PAYLOAD) for _ in range(3)]
        await until(lambda: gate.begun)
        handler.cancel(jobs[0].id)
        await ended(jobs[0])
        await handler.stop()
        assert [job.phase for job in jobs] == [Phase.CANCELLED] * 3
        report = handler.health()
        assert (report.health, report.reason) == (Health.STOPPED, "the server stops")
        with pytest.raises(Draining):
            handler.submit(PAYLOAD)


async def test_a_stop_tells_who_will_come_again_to_do_so(tmp_path):
    """Jobs with a key, or that nobody waits for, were not cancelled by anybody."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        entries = [await handler.enter({**PAYLOAD, "id": what}, how) for what, how in HOWS.items()]
        await until(lambda: gate.begun)
        handler.cancel("later")
        await ended(entries[2].job)
        await handler.stop()
        ends = {entry.id: (entry.job.phase, entry.job.error.code) for entry in entries}
        assert ends == {
            "plain": (Phase.CANCELLED, "cancelled"),
            "keyed": (Phase.FAILED, "draining"),
            "later": (Phase.CANCELLED, "cancelled"),
            "joined": (Phase.CANCELLED, "cancelled"),
        }


# -- warmup ---------------------------------------------------------------------------------------


async def test_the_warmup_runs_before_any_job_and_after_every_restart(tmp_path):
    """Its outputs are removed and it is no job."""
    settings = Settings(warmup_json=json.dumps(GRAPH))
    async with worker(tmp_path, settings) as (handler, engine):
        assert len(engine.prompts) == 1
        assert engine.prompts[0].prompt_id.startswith("warmup-")
        assert left(tmp_path) == []
        assert handler.find("warmup") is None
        await engine.restart("why")
        assert len(engine.prompts) == 2


@pytest.mark.parametrize("text", ["no json", "[]", WARM])
async def test_a_warmup_that_fails_fails_the_boot(tmp_path, text):
    """The image is at fault, and what to do is told."""
    async with worker(tmp_path, Settings(warmup_json=text), start=False) as (handler, _):
        with pytest.raises(BootFailed, match="warmup failed") as caught:
            await handler.start()

        assert (caught.value.blame, caught.value.retryable) == ("image", False)
        assert caught.value.hint
        assert handler.health().health is Health.UNHEALTHY


def broken(error):
    """A script that raises; what the engine raises of its own is an error of the port."""

    async def script(prompt, files):
        yield Started(1)
        raise error

    return script


@pytest.mark.parametrize(
    ("error", "blame", "retryable"),
    [
        (EngineDied("gone"), "platform", True),
        (InvalidPayload("caller's"), "image", False),
        (OSError(28, "No space left on device"), "platform", InternalFault.default_retryable),
    ],
)
async def test_a_failed_warmup_is_judged_by_its_cause(tmp_path, error, blame, retryable):
    """Whatever it was: another worker may do better, and no caller is at fault."""
    settings = Settings(warmup_json=json.dumps(GRAPH))
    async with worker(tmp_path, settings, start=False, script=broken(error)) as (handler, _):
        with pytest.raises(BootFailed, match="the warmup failed") as caught:
            await handler.start()

    assert (caught.value.blame, caught.value.retryable) == (blame, retryable)
    assert caught.value.__cause__ is error


async def test_the_warmup_is_read_once(tmp_path):
    """A restart must not depend on a file that is gone, or on the network."""
    file = tmp_path / "warm.json"
    file.write_text(json.dumps(GRAPH))
    async with worker(tmp_path, Settings(warmup_file=file)) as (_, engine):
        file.unlink()
        await engine.restart("why")
        assert len(engine.prompts) == 2


async def test_any_fault_of_a_warmup_may_be_passed_over(tmp_path, caplog):
    """WARMUP_FAILURE=continue holds for faults of ours as well."""
    settings = Settings(warmup_json=json.dumps(GRAPH), warmup_failure="continue")
    async with worker(tmp_path, settings, script=broken(ZeroDivisionError())) as (handler, engine):
        assert handler.health().ready
        engine.script = save_pictures
        await (await handler.handle(PAYLOAD)).close()
    assert "going on without: internal fault: ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("text", ["no json", WARM])
async def test_a_warmup_may_fail_where_the_operator_says_so(tmp_path, text, caplog):
    """WARMUP_FAILURE=continue."""
    settings = Settings(warmup_json=text, warmup_failure="continue")
    async with worker(tmp_path, settings) as (handler, _):
        assert handler.health().ready
        await (await handler.handle(PAYLOAD)).close()
    assert "going on without" in caplog.text


async def test_a_handler_can_be_made_and_thrown_away(tmp_path):
    """Wiring starts nothing."""
    handler = Handler(parts_in(tmp_path))
    assert handler.health().health is Health.STARTING
    await handler.stop()


async def test_a_refused_graph_never_reaches_the_engine(tmp_path):
    """It is told before the queue."""
    bad = {"1": {"class_type": "Nope", "inputs": {}}, "2": GRAPH["2"]}
    async with worker(tmp_path) as (handler, engine):
        with pytest.raises(InvalidWorkflow):
            await handler.handle({"prompt": bad})
        assert engine.prompts == []


async def test_the_typical_time_is_what_a_refused_caller_is_told_to_wait(tmp_path):
    """Retry-After follows from the runs so far."""
    async with worker(tmp_path) as (handler, _):
        assert handler._turns.retry_after_s == 1.0
        handler._turns._busy_s.extend([8.0, 4.0, 30.0])
        assert handler._turns.retry_after_s == 8.0


async def test_a_success_without_outputs_is_a_success(tmp_path):
    """A node may decide to save nothing."""

    async def script(prompt, files):
        yield Started(1)
        yield Succeeded(2)

    async with worker(tmp_path, script=script) as (handler, _):
        answer = await handler.handle(PAYLOAD)
        assert (await answer.json())["images"] == []
        await answer.close()
