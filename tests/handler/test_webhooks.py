"""Callers are told how their jobs ended, exactly once."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import io
import json
import logging
import socket
import tracemalloc
from dataclasses import replace

import pytest
import standardwebhooks
import webhooks_process
from posting import TERMS, died, gone, left_files, opened
from receiver import SECRET, receiving

from handler.errors import ExecutionFailed, InvalidPayload, JobCancelled, UrlNotAllowed
from handler.outbox.letter_file import copy_body
from handler.outbox.records import OutboxFailed, OutboxFull
from handler.payload import parse_payload
from handler.records import Output
from handler.webhooks import Webhooks
from handler.wire import Answer

GRAPH = {"1": {"class_type": "LoadImage", "inputs": {"image": "data:image/png;base64," + "A" * 64}}}
FAULT = ExecutionFailed("it raised", node_id="1", log_tail=["a", "b"])
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BOTH = {"webhook": "/legacy", "webhook_v2": "/hook"}


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


@contextlib.asynccontextmanager
async def telling(folder, **options):
    """Webhooks on an outbox; `outbox` and `scratch` are folders."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    async with opened(folder / "outbox", **options) as outbox:

        async def open_outbox():
            return outbox

        webhooks = Webhooks(open_outbox, scratch)
        yield webhooks, outbox
    assert list(scratch.iterdir()) == []


def a_request(receiver, hooks=("webhook_v2",), **facts):
    """Ask for posts to `/hook`, or where `hooks` says."""
    hooks = hooks if isinstance(hooks, dict) else dict.fromkeys(hooks, "/hook")
    urls = {key: receiver.url(path) for key, path in hooks.items()}
    return parse_payload({"prompt": GRAPH, **urls, **facts})


def an_answer(*outputs):
    head = {"id": "job-1", "prompt": {"1": {"inputs": {"image": "a.png"}}}}
    return Answer("job-1", head, list(outputs), {"stats": {"total_time": 1.5}})


def of_file(path, size, **facts):
    path.write_bytes(bytes(range(256)) * (size // 256))
    return Output("2", "t", "image", "image/png", path.name, size, "00", path=path, **facts)


def of_text(text):
    return Output("3", "t", "text", "text/plain", "3.txt", len(text), "00", text=text)


def told(receiver) -> list[dict]:
    return [json.loads(post.body) for post in receiver.posts]


async def test_result_is_one_signed_post(tmp_path, receiver):
    """Receivers' libraries take it; it is the answer, and what the request had for it."""
    answer = an_answer(of_file(tmp_path / "a.png", 2 << 20), of_text("ü"))
    request = a_request(receiver, webhook_extra={"a": [1]})
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", request, TRACE)
        assert await webhooks.complete(promised, answer) == {"webhook_v2": "posted"}
        await gone(outbox)

    (post,) = receiver.posts
    post.verify()
    standardwebhooks.Webhook(SECRET).verify(post.body.decode(), post.headers)
    assert (post.id, post.headers["traceparent"]) == ("job-1", TRACE)
    (body,) = told(receiver)
    assert (body.pop("type"), len(body.pop("timestamp"))) == ("prompt.complete", 24)
    assert body == {**(await answer.json()), "webhook_extra": {"a": [1]}}
    assert left_files(tmp_path / "outbox") == []


async def test_failure_is_one_signed_post(tmp_path, receiver):
    """The envelope, with the graph as it was sent but for the files that were written into it."""
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver, webhook_extra=None))
        assert await webhooks.failed(promised, FAULT) == {"webhook_v2": "posted"}
        await gone(outbox)

    (post,) = receiver.posts
    post.verify()
    assert "traceparent" not in post.headers
    (body,) = told(receiver)
    assert (body.pop("type"), len(body.pop("timestamp"))) == ("prompt.failed", 24)
    image = body.pop("prompt")["1"]["inputs"]["image"]
    assert len(image) < 64
    assert "86 characters" in image
    assert body == {"id": "job-1", **FAULT.envelope(), "webhook_extra": None}
    assert body["error"] == "it raised"


async def test_cancelled_job_is_told_as_such(tmp_path, receiver):
    """By a type of its own."""
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        await webhooks.failed(promised, JobCancelled("cancelled"))
        await gone(outbox)
    (body,) = told(receiver)
    assert (body["type"], body["code"]) == ("prompt.cancelled", "cancelled")
    assert "webhook_extra" not in body


async def test_older_form_has_a_post_per_output(tmp_path, receiver):
    """In order, unsigned, texts too; nothing else is sent."""
    outputs = [
        of_file(tmp_path / "a.png", 2 << 20),
        of_file(tmp_path / "b.png", 256, url="s3://bucket/b.png"),
        of_text("ü"),
    ]
    receiver.replies["/hook"] = [500, 200]
    request = a_request(receiver, ["webhook"], webhook_extra=7)
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", request)
        answer = an_answer(*outputs)
        assert await webhooks.complete(promised, answer) == {"webhook": "posted"}
        await gone(outbox)

    assert [post.id for post in receiver.posts] == ["job-1-1", "job-1-1", "job-1-2", "job-1-3"]
    for post in receiver.posts:
        assert {"webhook-signature", "webhook-unsigned"}.isdisjoint(post.headers)
    first, second, third = told(receiver)[1:]
    assert first == {
        "event": "output.complete",
        "image": base64.b64encode(outputs[0].path.read_bytes()).decode(),
        "id": "job-1",
        "filename": "a.png",
        "prompt": answer.head["prompt"],
        "stats": {"total_time": 1.5},
        "webhook_extra": 7,
    }
    assert (second["image"], third["image"]) == ("s3://bucket/b.png", "w7w=")
    assert left_files(tmp_path / "outbox") == []


async def test_failure_in_the_older_form(tmp_path, receiver):
    """Where the newer one was not asked for; a cancelled job is a failed one there."""
    async with telling(tmp_path) as (webhooks, outbox):
        for error in (FAULT, JobCancelled("cancelled")):
            promised = await webhooks.promise("job-1", "uid", a_request(receiver, ["webhook"]))
            assert await webhooks.failed(promised, error) == {"webhook": "posted"}
        await gone(outbox)
    for body, error in zip(told(receiver), ("it raised", "cancelled"), strict=True):
        assert (body["event"], body["id"], body["error"]) == ("prompt.failed", "job-1", error)
        assert body["prompt"]["1"]["class_type"] == "LoadImage"
        assert "type" not in body


async def test_both_forms_are_sent_the_older_first(tmp_path, receiver):
    """A failure is told by the newer alone."""
    receiver.replies["/legacy"] = [500, 200]
    outputs = [of_file(tmp_path / f"{name}.png", 256) for name in "ab"]
    async with telling(tmp_path) as (webhooks, outbox):
        request = a_request(receiver, BOTH)
        promised = await webhooks.promise("job-1", "uid", request)
        outcome = await webhooks.complete(promised, an_answer(*outputs))
        assert outcome == {"webhook": "posted", "webhook_v2": "posted"}
        await gone(outbox)
        assert [post.id for post in receiver.posts[1:]] == ["job-1-1", "job-1-2", "job-1"]
        receiver.posts[3].verify()
        receiver.posts.clear()
        await webhooks.failed(await webhooks.promise("job-1", "uid", request), FAULT)
        await gone(outbox)
    assert [(post.path, post.id) for post in receiver.posts] == [("/hook", "job-1")]


async def test_no_webhook_opens_no_outbox(tmp_path):
    """Nor does a start that finds nothing of an earlier one."""

    async def open_outbox():
        raise AssertionError

    webhooks = Webhooks(open_outbox, tmp_path, folder=tmp_path / "outbox")
    request = parse_payload({"prompt": GRAPH})
    await webhooks.open()
    await webhooks.check(request)
    assert await webhooks.promise("job-1", "uid", request) is None
    assert (await webhooks.drain(1), await webhooks.letters()) == (0, None)
    await webhooks.close()
    assert repr(webhooks) == "<Webhooks not opened>"


async def test_outbox_is_opened_once(tmp_path, receiver):
    """By whatever needs it first, at the start where there is one; and closed with the rest."""
    calls = []
    async with opened(tmp_path) as outbox:

        async def open_outbox():
            calls.append(1)
            await asyncio.sleep(0)
            return outbox

        webhooks = Webhooks(open_outbox, tmp_path, folder=tmp_path)
        request = a_request(receiver)
        await asyncio.gather(
            webhooks.open(),
            webhooks.check(request),
            webhooks.check(request),
        )
        await webhooks.withdraw(await webhooks.promise("a", "b", request))
        assert (calls, await webhooks.drain(1)) == ([1], 0)
        await webhooks.close()
        with pytest.raises(OutboxFailed, match="closed"):
            await webhooks.promise("a", "b", request)
        assert "Outbox 0 pending" in repr(webhooks)


@pytest.mark.parametrize(
    ("facts", "fault", "location"),
    [
        ({"webhook": "nonsense"}, InvalidPayload, "webhook"),
        ({"webhook_v2": "ftp://127.0.0.1/"}, InvalidPayload, "webhook_v2"),
        ({"webhook_v2": "http://10.0.0.1/"}, UrlNotAllowed, "webhook_v2"),
        ({"webhook_v2": "http://127.0.0.1/", "webhook": "no"}, InvalidPayload, "webhook"),
        ({"webhook_v2": "http://127.0.0.1/", "webhook_secret": "!"}, InvalidPayload, None),
        ({"webhook": "http://127.0.0.1/", "webhook_secret": "abcd"}, InvalidPayload, None),
    ],
)
async def test_what_cannot_be_sent_is_refused_with_its_place(tmp_path, facts, fault, location):
    """Before the job is queued."""
    async with telling(tmp_path) as (webhooks, _):
        with pytest.raises(fault) as refused:
            await webhooks.check(parse_payload({"prompt": GRAPH, **facts}))
    assert refused.value.location == (location or "webhook_secret")


async def test_secret_of_the_callers_signs(tmp_path, receiver):
    """Where WEBHOOK_SECRET is set to keep it under; it is refused without."""
    request = a_request(receiver, webhook_secret="whsec_testsecret")
    async with telling(tmp_path, secret="") as (webhooks, _):
        with pytest.raises(InvalidPayload, match="not taken here") as refused:
            await webhooks.check(request)
        assert refused.value.location == "webhook_secret"
        assert "WEBHOOK_SECRET" in refused.value.hint
    async with telling(tmp_path) as (webhooks, outbox):
        await webhooks.check(request)
        promised = await webhooks.promise("job-1", "uid", request)
        await webhooks.complete(promised, an_answer())
        await gone(outbox)
    receiver.posts[0].verify("testsecret==")


async def test_full_outbox_takes_no_job(tmp_path, receiver):
    """It is said before, when the caller can still be told."""
    async with telling(tmp_path, terms=replace(TERMS, max_letters=1)) as (webhooks, _):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        with pytest.raises(OutboxFull):
            await webhooks.promise("job-2", "uid2", a_request(receiver))
        await webhooks.withdraw(promised)
        await webhooks.withdraw(await webhooks.promise("job-2", "uid2", a_request(receiver)))
    assert left_files(tmp_path / "outbox") == []
    assert receiver.posts == []


@pytest.mark.parametrize("hooks", [("webhook_v2",), ("webhook",), ("webhook", "webhook_v2")])
async def test_result_that_has_no_room_is_told_as_a_failure(tmp_path, receiver, caplog, hooks):
    """Better than nothing; the record tells that it was lost."""
    answer = an_answer(of_file(tmp_path / "a.png", 2 << 20))
    async with telling(tmp_path, terms=replace(TERMS, max_bytes=1 << 20)) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver, hooks))
        outcome = await webhooks.complete(promised, answer)
        assert outcome == dict.fromkeys(hooks, "lost: outbox_full")
        await gone(outbox)
    (body,) = told(receiver)
    assert (body["code"], body["retryable"], body["id"]) == ("outbox_full", False, "job-1")
    assert "job job-1: its webhook is not posted: the outbox is full" in caplog.text
    assert left_files(tmp_path / "outbox") == []


async def test_failure_that_has_no_room_is_told_without_the_graph(tmp_path, receiver):
    """Its promise had room, and so it has."""
    request = a_request(receiver)
    request.prompt["2"] = {"inputs": {"text": "a b. " * 10_000}}
    async with telling(tmp_path, terms=replace(TERMS, max_bytes=4096)) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", request)
        assert await webhooks.failed(promised, FAULT) == {"webhook_v2": "posted"}
        await gone(outbox)
    (body,) = told(receiver)
    assert (body["error"], "prompt" in body) == ("it raised", False)


async def test_result_that_cannot_be_read_is_told_as_a_failure(tmp_path, receiver):
    """A file that is gone; whatever goes wrong, nothing is raised."""
    output = of_file(tmp_path / "a.png", 2 << 20)
    output.path.unlink()
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        outcome = await webhooks.complete(promised, an_answer(output))
        assert outcome == {"webhook_v2": "lost: internal_error"}
        await gone(outbox)
    (body,) = told(receiver)
    assert (body["type"], body["code"]) == ("prompt.failed", "internal_error")
    assert "No such file" in body["error"]


async def test_closed_outbox_leaves_the_promise_to_the_next_start(tmp_path, receiver):
    """The end came too late to be told by this one."""
    async with telling(tmp_path) as (webhooks, _):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        await webhooks.close()
        outcome = await webhooks.complete(promised, an_answer())
        assert outcome == {"webhook_v2": "lost: outbox_failed"}
    async with telling(tmp_path) as (_, outbox):
        await gone(outbox)
    (body,) = told(receiver)
    assert (body["type"], body["code"]) == ("prompt.failed", "worker_lost")


async def test_second_end_is_not_told(tmp_path, receiver, caplog):
    """A job has one; the first counts."""
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        await webhooks.complete(promised, an_answer())
        await webhooks.failed(promised, FAULT)
        await webhooks.withdraw(promised)
        await gone(outbox)
    assert [body["type"] for body in told(receiver)] == ["prompt.complete"]
    assert "its end was posted before" in caplog.text


async def test_result_without_outputs_is_nothing_to_the_older_form(tmp_path, receiver):
    """It tells of outputs only."""
    async with telling(tmp_path) as (webhooks, _):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver, ["webhook"]))
        assert await webhooks.complete(promised, an_answer()) == {"webhook": "posted"}
    assert (receiver.posts, left_files(tmp_path / "outbox")) == ([], [])


async def test_cancelled_completion_leaves_one_end(tmp_path, receiver):
    """The promise or the result, at whatever point it was cancelled; then another end is told."""
    outputs = [of_file(tmp_path / "a.png", 2 << 20)]
    for turns in range(0, 40, 3):
        receiver.posts.clear()
        async with telling(tmp_path) as (webhooks, outbox):
            promised = await webhooks.promise("job-1", "uid", a_request(receiver))
            task = asyncio.create_task(webhooks.complete(promised, an_answer(*outputs)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await webhooks.failed(promised, JobCancelled("cancelled"))
            await gone(outbox)
        assert len(receiver.posts) == 1
        assert left_files(tmp_path / "outbox") == []


@pytest.mark.parametrize("trace", ["x", "00-\r\nX: 1", TRACE.upper()])
async def test_trace_that_is_none_is_not_sent(tmp_path, receiver, trace):
    """It came from outside, and becomes a header."""
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver), trace)
        await webhooks.complete(promised, an_answer())
        await gone(outbox)
    assert "traceparent" not in receiver.posts[0].headers


@pytest.mark.parametrize("job_id", ["a\r\nX-Evil: 1", "漢" * 512, "😀 %/?" * 85, "\x00"])
async def test_any_id_is_told_as_it_is(tmp_path, receiver, job_id):
    """In the body; the header has what any receiver can verify."""
    outputs = [of_file(tmp_path / "a.png", 256)]
    answer = replace(an_answer(*outputs), job_id=job_id, head={"id": job_id})
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise(job_id, "uid", a_request(receiver, BOTH))
        await webhooks.complete(promised, answer)
        await gone(outbox)
    legacy, newer = receiver.posts
    newer.verify()
    assert [body["id"] for body in told(receiver)] == [job_id] * 2
    assert legacy.id == f"{newer.id}-1"
    assert "x-evil" not in newer.headers


async def test_large_result_is_never_in_memory(tmp_path):
    """64 MiB of output: 85 MiB of body, by way of a file."""
    with socket.socket() as none:
        none.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{none.getsockname()[1]}/"
        request = parse_payload({"prompt": GRAPH, "webhook_v2": url, "webhook": url})
        answer = an_answer(of_file(tmp_path / "a.png", 64 << 20))
        async with telling(tmp_path) as (webhooks, outbox):
            promised = await webhooks.promise("job-1", "uid", request)
            tracemalloc.start()
            try:
                await webhooks.complete(promised, answer)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 12 << 20
            for letter in outbox.pending():
                sink = io.BytesIO()
                copy_body(outbox._journal.find(letter.id), sink)
                body = json.loads(sink.getvalue())
                image = body["image"] if letter.kind == "output.complete" else body["images"][0]
                assert base64.b64decode(image) == answer.outputs[0].path.read_bytes()
                await outbox.drop(letter.id)


@pytest.mark.parametrize(
    ("what", "kind"), [("promise", "prompt.failed"), ("complete", "prompt.complete")]
)
async def test_killed_process_is_told_of_once(tmp_path, receiver, what, kind):
    """kill -9: the next start tells that the worker was lost, or the result that there was."""
    receiver.replies["/hook"] = [503]
    process = await asyncio.to_thread(webhooks_process.start, tmp_path, receiver.url(), 5, what)
    if what == "complete":
        await receiver.got(5)
    process.kill()
    await asyncio.to_thread(process.communicate)
    if what == "promise":
        assert receiver.posts == []
    receiver.posts.clear()
    receiver.replies["/hook"] = [200]

    async with telling(tmp_path) as (_, outbox):
        assert len(outbox.pending()) == 5
        await gone(outbox)
    assert collections.Counter(post.id for post in receiver.posts) == {
        f"job-{number}": 1 for number in range(5)
    }
    for post, body in zip(receiver.posts, told(receiver), strict=True):
        post.verify()
        assert body["type"] == kind
        assert "prompt" not in body
        if what == "promise":
            assert (body["code"], body["retryable"], body["id"]) == ("worker_lost", True, post.id)
    assert left_files(tmp_path / "outbox") == []


async def test_what_receivers_refuse_is_kept_for_the_operator(tmp_path, receiver):
    """And the listener is told whose it was."""
    receiver.replies["/hook"] = [410]
    heard = []
    async with telling(tmp_path, listener=heard.append) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", a_request(receiver))
        assert await webhooks.complete(promised, an_answer()) == {"webhook_v2": "posted"}
        await died(outbox)
        (dead,) = await outbox.dead()
        assert await webhooks.letters() == {"pending": 0, "dead": 1}
    assert (dead.kind, dead.order_key, dead.message_id) == ("prompt.complete", "uid", "job-1")
    assert [(one.letter.order_key, one.outcome) for one in heard] == [("uid", "dead")]


async def test_no_secret_and_no_url_is_logged(tmp_path, receiver, caplog):
    """Whatever comes of the post."""
    caplog.set_level(logging.DEBUG)
    receiver.replies["/canary"] = [500, 410]
    request = a_request(receiver, {"webhook_v2": "/canary"}, webhook_secret="canaryab")
    async with telling(tmp_path) as (webhooks, outbox):
        promised = await webhooks.promise("job-1", "uid", request)
        assert "canary" not in repr(promised)
        await webhooks.complete(promised, an_answer())
        await died(outbox)
        await webhooks.failed(promised, FAULT)
    assert "canary" not in caplog.text
