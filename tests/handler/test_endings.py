"""Who is told how a job ended, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from receiver import SECRET, receiving
from running import Gate
from worker import GRAPH, parts_in, until, worker

from handler.endings import Endings
from handler.engine.events import Failed, Started
from handler.engine.memory import PIXEL
from handler.errors import HandlerError, InvalidPayload, UploadFailed
from handler.job import Job
from handler.ledger import Ledger
from handler.payload import parse_payload
from handler.settings import Settings
from handler.submission import Submission
from handler.tracing.tracer import NullTracer

HERE = Settings(url_allow_hosts="127.0.0.1", webhook_secret=SECRET)
PAYLOAD = {"prompt": GRAPH, "id": "mine"}
DEAD_STORE = {"url_prefix": "http://127.0.0.1:1/files"}


def left(home):
    """Files of jobs that are still there."""
    roots = [home / name for name in ("input", "output", "scratch")]
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


async def the_post(receiver):
    (post,) = await receiver.got(1)
    post.verify()
    return json.loads(post.body)


async def test_a_success_is_told_kept_and_written(tmp_path):
    """Its files go from the engine's folders; what is kept can be had."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        body = await the_post(receiver)
        assert (body["type"], body["id"]) == ("prompt.complete", "mine")
        await until(lambda: left(tmp_path) == [])
        record, output = await handler.stored.output("mine", "mine_x_00001_.png")
        async with await handler.stored.open(record, output) as file:
            assert b"".join([block async for block in file.blocks()]) == PIXEL
        await until(lambda: handler.find("mine").webhooks["webhook_v2"]["status"] == "delivered")


async def test_a_failure_is_told(tmp_path):
    """Every kind of it; this one is a node's."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    async with receiving() as receiver, worker(tmp_path, HERE, script=script) as (handler, _):
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        body = await the_post(receiver)
        assert (body["type"], body["code"]) == ("prompt.failed", "execution_error")
        assert body["stats"]["gpu_time"] > 0
        assert (await handler.stored.public("mine"))["stats"] == body["stats"]


async def test_a_failure_has_figures_for_who_waits(tmp_path):
    """And for whoever asks for its result later."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    async with worker(tmp_path, HERE, script=script) as (handler, _):
        with pytest.raises(HandlerError) as caught:
            await handler.handle(PAYLOAD)
        stats = caught.value.envelope()["stats"]
        assert (stats["adapter"], stats["engine"]["kind"]) == ("http", "memory")
        with pytest.raises(HandlerError) as again:
            await handler.stored.result("mine")
        assert again.value.envelope()["stats"] == stats


async def test_a_cancel_is_told(tmp_path):
    """As what it is."""
    gate = Gate()
    async with receiving() as receiver, worker(tmp_path, HERE, script=gate) as (handler, _):
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await until(lambda: gate.begun)
        assert (await handler.stored.cancel("mine"))["cancelled"]
        body = await the_post(receiver)
        assert (body["type"], body["stats"]["instance"]) == (
            "prompt.cancelled",
            handler._parts.identity.instance,
        )


async def test_a_stop_of_the_worker_is_no_cancel(tmp_path):
    """Who waits for the webhook is told to send it again."""
    gate = Gate()
    async with receiving() as receiver, worker(tmp_path, HERE, script=gate) as (handler, _):
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await until(lambda: gate.begun)
        assert await handler.drain(0.02) is False
        body = await the_post(receiver)
        assert (body["type"], body["code"]) == ("prompt.failed", "draining")
        assert body["retryable"] is True


async def test_a_failed_upload_keeps_the_outputs(tmp_path):
    """The run was good: its files can be fetched although the job has failed."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url(), "http_upload": DEAD_STORE})
        body = await the_post(receiver)
        assert (body["type"], body["code"]) == ("prompt.failed", "upload_failed")
        assert body["retryable"] is True
        record, output = await handler.stored.output("mine", "mine_x_00001_.png")
        async with await handler.stored.open(record, output) as file:
            assert b"".join([block async for block in file.blocks()]) == PIXEL
        with pytest.raises(HandlerError) as caught:
            await handler.stored.result("mine")
        assert (caught.value.code, caught.value.status) == ("upload_failed", 502)


async def test_a_failed_upload_keeps_them_for_who_waits_as_well(tmp_path):
    """A plain job, whose outputs are kept for no other reason."""
    async with worker(tmp_path, HERE) as (handler, _):
        with pytest.raises(UploadFailed):
            await handler.handle({**PAYLOAD, "http_upload": DEAD_STORE})
        await handler.stored.output("mine", "mine_x_00001_.png")
        assert left(tmp_path) == []


async def test_an_end_is_told_after_the_acceptance(tmp_path):
    """A job may be over before its caller was told that it is accepted."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        parts, ledger = handler._parts, handler._ledger
        endings = Endings(parts, ledger, handler._endings._webhooks, NullTracer())
        request = parse_payload({**PAYLOAD, "webhook_v2": receiver.url()})
        job = Job(uid="f" * 32, id="mine", asynchronous=True)
        promised = await endings.promise(job, request)
        endings.accepting(job)
        error = HandlerError("too late for the connection")
        job.fail(error)
        endings.over(job, promised, None, error, hand_over=lambda: False)
        assert repr(endings) == "<Endings 0 being told>"
        endings.unheard(job, promised)
        assert (await the_post(receiver))["error"] == "too late for the connection"
        await endings.drain(5)
        assert endings._accepting == {}


async def test_a_withdrawal_is_carried_out_although_the_caller_goes_away(tmp_path):
    """In the very moment in which it would be told the fault."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        endings = handler._endings
        request = parse_payload({**PAYLOAD, "webhook_v2": receiver.url()})
        job = Job(uid="f" * 32, id="mine", asynchronous=True)
        promised = await endings.promise(job, request)
        await handler._ledger.enter(job)
        endings.accepting(job)
        error = HandlerError("a fault of the graph")
        job.fail(error)
        endings.over(job, promised, None, error, hand_over=lambda: False)
        accepting = asyncio.create_task(endings.accepted(job, promised))
        await asyncio.sleep(0)
        accepting.cancel()
        await asyncio.wait({accepting})
        assert accepting.cancelled()
        await endings.drain(5)
        await handler._ledger.flush()
        assert endings._webhooks._outbox._promises == {}
        assert (await handler._ledger.find("mine")).phase == "failed"
        assert receiver.posts == []
        assert job.webhooks == {}


async def test_a_worker_without_webhooks_refuses_them(tmp_path):
    """What cannot be told is not promised."""
    endings = Endings(parts_in(tmp_path), Ledger(), None, NullTracer())
    await endings.open()
    plain = parse_payload(PAYLOAD)
    await endings.check(plain)
    assert await endings.promise(Job(uid="u", id="j"), plain) is None
    for key in ("webhook", "webhook_v2"):
        with pytest.raises(InvalidPayload) as caught:
            await endings.check(parse_payload({**PAYLOAD, key: "http://a.test"}))
        assert caught.value.location == key
    await endings.drain(1)
    await endings.close()


async def test_a_drain_waits_for_the_webhooks_of_jobs_that_are_over(tmp_path):
    """A slow receiver is told before the worker goes."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        receiver.delay_s = 0.2
        for number in range(5):
            await handler.enter(
                {**PAYLOAD, "id": f"job-{number}", "webhook_v2": receiver.url(f"/{number}")}
            )
        assert await handler.drain(20) is True
        assert sorted(post.id for post in receiver.posts) == [f"job-{n}" for n in range(5)]
        assert receiver.open == 0 or len(receiver.posts) == 5


async def test_a_dead_receiver_does_not_hold_up_the_stop(tmp_path):
    """What it was not told is left for the next start, which tells it."""
    async with receiving() as receiver:
        receiver.replies["/hook"] = ["hang", 200]
        async with worker(tmp_path, HERE) as (handler, _):
            await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
            await receiver.got(1)
            begun = time.monotonic()
            await handler.stop()
            assert time.monotonic() - begun < 10
        async with worker(tmp_path, HERE):
            posts = await receiver.got(2)
            assert [post.id for post in posts] == ["mine", "mine"]
            assert json.loads(posts[1].body)["type"] == "prompt.complete"


async def test_an_unasked_answer_is_closed(tmp_path):
    """Nobody waits for it: its files go."""
    async with worker(tmp_path, HERE) as (handler, _):
        await handler.enter(PAYLOAD, Submission(respond_async=True))
        await handler.find("mine").ended()
        await until(lambda: left(tmp_path) == [])


async def test_a_keyed_job_tells_its_webhook_once(tmp_path):
    """However often it is sent."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, engine):
        payload = {**PAYLOAD, "webhook_v2": receiver.url()}
        how = Submission(key="http:k")
        entries = await asyncio.gather(*(handler.enter(payload, how) for _ in range(4)))
        assert {entry.id for entry in entries} == {"mine"}
        await receiver.got(1)
        assert (await handler.enter(payload, replace(how))).accepted["id"] == "mine"
        await handler.drain()
        assert (len(receiver.posts), len(engine.prompts)) == (1, 1)
