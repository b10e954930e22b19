"""Which payloads are run, joined, or answered from what is known."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from receiver import SECRET, receiving
from running import Gate
from worker import GRAPH, until, worker

from handler.engine.base import EngineState
from handler.engine.events import Failed, NodeOutput, Preview, Started, Succeeded
from handler.engine.memory import PIXEL, save_pictures
from handler.errors import (
    Conflict,
    Draining,
    EngineDied,
    ExecutionFailed,
    HandlerError,
    InvalidPayload,
    InvalidWorkflow,
    JobCancelled,
    QueueFull,
    StateUnavailable,
    TooLongToAnswer,
)
from handler.job import RECORD_TEXT_CHARS, Phase
from handler.settings import Settings
from handler.submission import Submission

PAYLOAD = {"prompt": GRAPH}
KEYED = Submission(key="http:k")
LATER = Submission(respond_async=True)
HERE = Settings(url_allow_hosts="127.0.0.1")
BAD = {"1": {"class_type": "Nope", "inputs": {}}, "2": GRAPH["2"]}
LONG = "line\r\nline\u2028é\n" + "x" * RECORD_TEXT_CHARS


class Steps:
    """Awaits a coroutine, and cancels its task where it waits for the n-th time."""

    def __init__(self, work, at):
        self._work, self.at, self.taken = work, at, 0

    def __await__(self):
        steps, thrown = self._work.__await__(), None
        while True:
            try:
                waiting = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value
            thrown = None
            self.taken += 1
            if self.taken == self.at:
                asyncio.current_task().cancel()
            try:
                yield waiting
            except BaseException as error:
                thrown = error


async def told(handler, payload, how=None):
    """Give an answer, closed, as its caller has it."""
    async with await handler.handle(payload, how) as answer:
        return await answer.json()


def same(first, second):
    """Make sure that two answers give the same job and the same result."""
    assert first["id"] == second["id"]
    for key in ("images", "filenames", "outputs"):
        assert first[key] == second[key]


async def everything(prompt, files):
    """A script with a picture, a frame, a short text and a long one."""
    async for event in save_pictures(prompt, files):
        if isinstance(event, Succeeded):
            yield Preview("2", "image/png", PIXEL)
            yield NodeOutput("2", {"text": ["short", LONG]})
        yield event


# -- keys -----------------------------------------------------------------------------------------


async def test_the_same_key_twice_at_once_is_one_run(tmp_path):
    """Both are answered."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, engine):
        calls = [asyncio.create_task(told(handler, PAYLOAD, KEYED)) for _ in range(2)]
        await until(lambda: gate.begun)
        gate.open.set()
        first, second = await asyncio.gather(*calls)
        same(first, second)
        assert len(engine.prompts) == 1
        assert sorted(("replayed" in first, "replayed" in second)) == [False, True]


async def test_the_same_key_after_the_end_is_given_the_stored_result(tmp_path):
    """Pictures, frames and texts of any length and with any line ends, byte for byte."""
    async with worker(tmp_path, script=everything) as (handler, engine):
        first = await told(handler, PAYLOAD, KEYED)
        second = await told(handler, PAYLOAD, KEYED)
        same(first, second)
        assert [one["text"] for one in second["outputs"] if one["text"]] == ["short", LONG]
        assert len(second["images"]) == 2
        assert len(engine.prompts) == 1


async def test_an_error_for_good_is_told_again_as_it_was(tmp_path):
    """Status, envelope and all, without another run."""

    async def script(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    async with worker(tmp_path, script=script) as (handler, engine):
        with pytest.raises(ExecutionFailed) as first:
            await handler.handle(PAYLOAD, KEYED)
        with pytest.raises(HandlerError) as second:
            await handler.handle(PAYLOAD, KEYED)
        assert second.value.envelope() == first.value.envelope()
        assert second.value.status == first.value.status == 500
        assert len(engine.prompts) == 1


async def test_an_error_that_may_pass_is_tried_again(tmp_path):
    """The engine died; it may not do so again."""
    ahead = [EngineDied("gone")]

    async def script(prompt, files):
        if ahead:
            yield Started(1)
            raise ahead.pop()
        async for event in save_pictures(prompt, files):
            yield event

    async with worker(tmp_path, script=script) as (handler, _):
        with pytest.raises(EngineDied):
            await handler.handle(PAYLOAD, KEYED)
        assert (await told(handler, PAYLOAD, KEYED))["images"]


async def test_a_key_stands_for_one_payload(tmp_path):
    """Another one is a conflict, running or over."""
    gate = Gate()
    other = {**PAYLOAD, "include_temp": True}
    async with worker(tmp_path, script=gate) as (handler, _):
        call = asyncio.create_task(told(handler, PAYLOAD, KEYED))
        await until(lambda: gate.begun)
        with pytest.raises(Conflict):
            await handler.enter(other, KEYED)
        gate.open.set()
        await call
        with pytest.raises(Conflict):
            await handler.enter(other, KEYED)
        assert len(gate.begun) == 1


async def test_secrets_may_change_under_the_same_key(tmp_path):
    """Who sends a job again may have fresh ones."""

    def payload(secret):
        return {
            **PAYLOAD,
            "credentials": [
                {"url_pattern": "https://a.test/*", "auth": {"type": "bearer", "token": secret}}
            ],
            "extra_data": {"api_key_comfy_org": secret},
        }

    async with worker(tmp_path) as (handler, engine):
        first = await told(handler, payload("one"), KEYED)
        same(first, await told(handler, payload("two"), KEYED))
        assert len(engine.prompts) == 1


async def test_the_secrets_of_webhooks_and_targets_may_change_likewise(tmp_path):
    """They are no part of what is to be done."""

    def payload(url, secret, target):
        auth = {"type": "bearer", "token": target}
        return {
            **PAYLOAD,
            "webhook_v2": url,
            "webhook_secret": secret,
            "http_upload": {"url_prefix": f"{url}/files", "auth": auth},
        }

    settings = replace(HERE, webhook_secret=SECRET)
    async with receiving() as receiver, worker(tmp_path, settings) as (handler, engine):
        url = receiver.url()
        first = await handler.enter(payload(url, "whsec_YWFhYWFhYWE=", "a"), KEYED)
        second = await handler.enter(payload(url, "whsec_YmJiYmJiYmI=", "b"), KEYED)
        assert first.id == second.id
        assert second.mine is None
        await handler.find(first.id).ended()
        assert len(engine.prompts) == 1


async def test_known_runs_are_answered_where_no_job_is_taken(tmp_path):
    """A full queue and a drain concern new jobs only; what is not known is refused."""
    gate = Gate()
    settings = Settings(max_queue_depth=1, engine_prefetch=1)
    async with worker(tmp_path, settings, script=gate) as (handler, engine):
        gate.open.set()
        before = await told(handler, PAYLOAD, KEYED)
        gate.open.clear()
        running = asyncio.create_task(told(handler, PAYLOAD, Submission(key="http:2")))
        await until(lambda: len(gate.begun) == 2)
        waiting = handler.submit(PAYLOAD)
        with pytest.raises(QueueFull):
            await handler.enter(PAYLOAD, Submission(key="http:new"))
        joined = asyncio.create_task(told(handler, PAYLOAD, Submission(key="http:2")))
        same(before, await told(handler, PAYLOAD, KEYED))
        draining = asyncio.create_task(handler.drain())
        await until(lambda: handler._draining)
        with pytest.raises(Draining):
            await handler.enter(PAYLOAD, Submission(key="http:new"))
        same(before, await told(handler, PAYLOAD, KEYED))
        gate.open.set()
        same(await running, await joined)
        await (await handler.result(waiting)).close()
        assert await draining is True
        assert len(engine.prompts) == 3


async def test_a_key_whose_outputs_are_not_kept_runs_again(tmp_path):
    """OUTPUT_RETENTION_S=0: better a second run than a result that nobody can have."""
    async with worker(tmp_path, Settings(output_retention_s=0)) as (handler, engine):
        first = await told(handler, PAYLOAD, KEYED)
        second = await told(handler, PAYLOAD, KEYED)
        assert first["id"] != second["id"]
        assert second["images"]
        assert len(engine.prompts) == 2


async def test_a_caller_with_a_key_may_come_again_for_its_result(tmp_path):
    """Its job goes on without it."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, engine):
        call = asyncio.create_task(handler.handle(PAYLOAD, KEYED))
        await until(lambda: gate.begun)
        call.cancel()
        await asyncio.wait({call})
        gate.open.set()
        assert (await told(handler, PAYLOAD, KEYED))["images"]
        assert len(engine.prompts) == 1
        assert engine.cancelled == []


async def test_a_keyed_job_that_was_stopped_with_its_worker_runs_again(tmp_path):
    """Nobody has cancelled it: a redelivery must not be told so."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        call = asyncio.create_task(handler.handle(PAYLOAD, KEYED))
        await until(lambda: gate.begun)
        assert await handler.drain(0.02) is False
        with pytest.raises(Draining) as stopped:
            await call
        assert stopped.value.retryable
    async with worker(tmp_path) as (handler, _):
        assert (await told(handler, PAYLOAD, KEYED))["images"]


async def test_a_cancelled_key_stays_cancelled(tmp_path):
    """Somebody wanted it."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        call = asyncio.create_task(handler.handle({**PAYLOAD, "id": "x"}, KEYED))
        await until(lambda: gate.begun)
        handler.cancel("x")
        with pytest.raises(JobCancelled) as first:
            await call
        with pytest.raises(HandlerError) as again:
            await handler.handle({**PAYLOAD, "id": "x"}, KEYED)
        assert again.value.envelope() == first.value.envelope()


# -- ids ------------------------------------------------------------------------------------------


async def test_a_plain_id_is_joined_while_the_first_runs(tmp_path):
    """With the same payload; another one is a conflict; after the end it is a new run."""
    gate = Gate()
    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=gate) as (handler, engine):
        first = asyncio.create_task(told(handler, payload))
        await until(lambda: gate.begun)
        second = asyncio.create_task(told(handler, payload))
        with pytest.raises(Conflict):
            await handler.enter({**payload, "include_temp": True})
        with pytest.raises(Conflict):
            await handler.enter({**payload, "include_temp": True}, LATER)
        await until(lambda: handler.find("mine").joined)
        gate.open.set()
        same(await first, await second)
        assert len(engine.prompts) == 1
        await told(handler, payload)
        await told(handler, {**payload, "include_temp": True})
        assert len(engine.prompts) == 3


async def test_a_joined_caller_is_answered_although_the_first_goes_away(tmp_path):
    """The job is not cancelled while somebody waits for it."""
    gate = Gate()
    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=gate) as (handler, engine):
        first = asyncio.create_task(handler.handle(payload))
        await until(lambda: gate.begun)
        second = asyncio.create_task(told(handler, payload))
        await until(lambda: handler.find("mine").joined)
        first.cancel()
        await asyncio.wait({first})
        gate.open.set()
        assert (await second)["images"]
        assert engine.cancelled == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_the_last_caller_to_go_away_cancels_the_job(tmp_path, order):
    """In whatever order they go."""
    gate = Gate()
    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=gate) as (handler, engine):
        calls = [asyncio.create_task(handler.handle(payload))]
        await until(lambda: gate.begun)
        calls += [asyncio.create_task(handler.handle(payload)) for _ in range(2)]
        job = handler.find("mine")
        await until(lambda: job.joined == 2)
        for number in order:
            assert not job.cancel_asked
            calls[number].cancel()
            await asyncio.wait({calls[number]})
        await job.ended()
        assert job.phase is Phase.CANCELLED
        await until(lambda: engine.cancelled)


async def test_who_does_not_wait_joins_like_any_other(tmp_path):
    """The same payload with and without `Prefer: respond-async` is one run of its id."""
    gate = Gate()
    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=gate) as (handler, engine):
        first = asyncio.create_task(handler.handle(payload))
        await until(lambda: gate.begun)
        entry = await handler.enter(payload, LATER)
        assert (entry.mine, entry.asynchronous) == (None, True)
        first.cancel()
        await asyncio.wait({first})
        third = asyncio.create_task(told(handler, payload))
        await until(lambda: handler.find("mine").joined == 2)
        gate.open.set()
        same(await third, await told_result(handler, "mine"))
        assert len(engine.prompts) == 1


async def told_result(handler, job_id):
    async with await handler.stored.result(job_id) as answer:
        return await answer.json()


async def test_many_of_one_id_at_once_are_one_run(tmp_path):
    """Waiting or not, however they are interleaved."""
    gate = Gate()
    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=gate) as (handler, engine):
        entries = await asyncio.gather(
            *(handler.enter(payload, LATER if n % 2 else None) for n in range(8))
        )
        assert len({id(entry.job) for entry in entries}) == 1
        assert sum(entry.mine is not None for entry in entries) == 1
        gate.open.set()
        await entries[0].job.ended()
        assert len(engine.prompts) == 1


async def test_a_failure_is_told_to_all_who_joined(tmp_path):
    """As the first is told it."""
    gate = asyncio.Event()

    async def script(prompt, files):
        yield Started(1)
        await gate.wait()
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    payload = {**PAYLOAD, "id": "mine"}
    async with worker(tmp_path, script=script) as (handler, _):
        calls = [asyncio.create_task(handler.handle(payload)) for _ in range(3)]
        await until(lambda: handler.find("mine") and handler.find("mine").joined == 2)
        gate.set()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [error.envelope() for error in errors] == [errors[0].envelope()] * 3


# -- asynchronous ---------------------------------------------------------------------------------


def promises(handler):
    outbox = handler._endings._webhooks._outbox
    return outbox._promises if outbox is not None else {}


async def test_who_does_not_wait_is_given_the_id_at_once(tmp_path):
    """And finds the outcome under it."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        entry = await handler.enter({**PAYLOAD, "id": "x"}, LATER)
        assert entry.asynchronous
        assert entry.accepted == {"id": "x", "prompt": GRAPH, "status": "ok"}
        assert await handler.stored.result("x") is None
        gate.open.set()
        await entry.job.ended()
        assert (await told_result(handler, "x"))["images"]
        assert (await handler.stored.public("x"))["status"] == "succeeded"


async def test_a_fault_of_the_graph_is_told_at_once_and_not_by_webhook(tmp_path):
    """The promise is withdrawn; the record says that it failed."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        with pytest.raises(InvalidWorkflow):
            await handler.enter({"prompt": BAD, "webhook_v2": receiver.url(), "id": "x"})
        assert promises(handler) == {}
        assert (await handler.stored.public("x"))["status"] == "failed"
        assert (await handler._ledger.find("x")).final or await recorded(handler, "x") == "failed"
        await handler.drain()
        assert receiver.posts == []


async def recorded(handler, job_id):
    await handler._ledger.flush()
    return (await handler._ledger.find(job_id)).phase


async def test_without_an_engine_a_job_is_accepted_and_its_fault_told_later(tmp_path):
    """Nobody knows the nodes yet."""
    async with (
        receiving() as receiver,
        worker(tmp_path, HERE, start=False) as (handler, engine),
    ):
        assert engine.state is EngineState.STARTING
        entry = await handler.enter({"prompt": BAD, "webhook_v2": receiver.url()})
        assert entry.accepted["status"] == "ok"
        await handler.start()
        (post,) = await receiver.got(1)
        body = json.loads(post.body)
        assert (body["type"], body["code"]) == ("prompt.failed", "invalid_workflow")
        assert promises(handler) == {}


async def test_a_caller_who_leaves_before_the_202_is_told_by_webhook(tmp_path):
    """Its fault is found, and the connection that it would be told on is gone."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, engine):
        handler._engine_ready.clear()  # the graph waits for the engine's nodes
        entering = asyncio.create_task(
            handler.enter({"prompt": BAD, "webhook_v2": receiver.url(), "id": "x"})
        )
        await until(lambda: handler.find("x"))
        entering.cancel()
        await asyncio.wait({entering})
        handler._engine_ready.set()
        (post,) = await receiver.got(1)
        assert json.loads(post.body)["type"] == "prompt.failed"
        assert engine.prompts == []
        assert promises(handler) == {}


async def test_a_queue_that_fills_meanwhile_leaves_no_promise(tmp_path):
    """The job is refused after its webhook was promised."""
    gate = Gate()
    settings = replace(HERE, max_queue_depth=1, engine_prefetch=1)
    async with receiving() as receiver, worker(tmp_path, settings, script=gate) as (handler, _):
        handler.submit(PAYLOAD)
        await until(lambda: gate.begun)
        payload = {**PAYLOAD, "webhook_v2": receiver.url()}
        entering = [asyncio.create_task(handler.enter(payload)) for _ in range(3)]
        entries = await asyncio.gather(*entering, return_exceptions=True)
        assert sum(isinstance(entry, QueueFull) for entry in entries) == 2
        await until(lambda: len(promises(handler)) == 1)
        gate.open.set()
        posts = await receiver.got(1)
        await handler.drain()
        assert [json.loads(post.body)["type"] for post in posts] == ["prompt.complete"]


async def test_a_webhook_that_cannot_be_told_is_refused_before_anything(tmp_path):
    """No job, no record."""
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(InvalidPayload):
            await handler.enter({**PAYLOAD, "webhook_v2": "no url", "id": "x"})
        assert handler.find("x") is None
        assert await handler._ledger.find("x") is None


async def test_who_is_answered_anyway_waits_whatever_the_payload_says(tmp_path):
    """A platform that gives its callers results gives them here, too."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        payload = {**PAYLOAD, "webhook_v2": receiver.url()}
        how = Submission(adapter="runpod", key="runpod:1", waits=True)
        assert (await told(handler, payload, how))["images"]
        (post,) = await receiver.got(1)
        assert json.loads(post.body)["type"] == "prompt.complete"


# -- who goes away --------------------------------------------------------------------------------

HOWS = {
    "a key": (KEYED, False),
    "later": (LATER, False),
    "a webhook": (Submission(), True),
    "a key and a webhook": (KEYED, True),
}


@pytest.mark.parametrize("what", HOWS)
async def test_a_caller_may_go_away_at_any_moment(tmp_path, what):
    """No record stays at work for ever, no promise stays, and no job runs that nobody knows."""
    how, hooked = HOWS[what]
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        at, taken = 0, 1
        while taken >= at:
            at += 1
            payload = {**PAYLOAD, "id": f"job-{at}"}
            if hooked:
                payload["webhook_v2"] = receiver.url()
            key = how.key and f"http:{at}"
            steps = Steps(handler.enter(payload, replace(how, key=key)), at)
            await asyncio.wait({asyncio.create_task(awaited(steps))})
            taken = steps.taken
            await settled(handler, f"job-{at}")
            if key is not None and not hooked:
                assert (await told(handler, payload, Submission(key=key)))["images"]
        assert at >= 2
        await handler.drain()
        assert promises(handler) == {}
        assert handler._endings._accepting == {}
        assert handler._entrance._entering == []
        page = await handler.stored.page("active", None, None, 200)
        assert page["jobs"] == []


async def awaited(steps):
    return await steps


async def settled(handler, job_id):
    """Wait until a job and its record are over, or there never was one."""
    async with asyncio.timeout(10):
        while True:
            await handler._ledger.flush()
            state = await handler._ledger.opened()
            await state.admission.settle()
            job = handler.find(job_id)
            found = await handler._ledger.find(job_id)
            if (job is None or job.phase.final) and (found is None or found.final):
                return
            await asyncio.sleep(0.005)


# -- no place -------------------------------------------------------------------------------------


async def test_without_a_place_plain_jobs_run_and_keys_are_refused(tmp_path):
    """STATE_DIR cannot be written: what needs it is refused, and nothing else."""
    (tmp_path / "state").write_text("no folder")
    async with worker(tmp_path) as (handler, engine):
        assert handler.health().ready
        assert (await told(handler, PAYLOAD))["images"]
        with pytest.raises(StateUnavailable) as caught:
            await handler.enter(PAYLOAD, KEYED)
        assert caught.value.status == 503
        payload = {**PAYLOAD, "id": "x"}
        answers = await asyncio.gather(told(handler, payload), told(handler, payload))
        assert all(answer["images"] for answer in answers)
        assert (await handler.stored.public("x"))["status"] == "succeeded"
        assert (await handler.stored.cancel("x"))["cancelled"] is False
        assert len(engine.prompts) == 3


async def test_a_large_payload_is_told_from_others_in_a_thread(tmp_path):
    """Megabytes of inline media would hold up everybody."""
    picture = "data:image/png;base64," + "A" * (2 << 20)
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "x": picture}}}
    async with worker(tmp_path) as (handler, engine):
        with contextlib.suppress(HandlerError):
            first = await handler.enter({"prompt": graph, "id": "x"}, KEYED)
            second = await handler.enter({"prompt": graph, "id": "x"}, KEYED)
            assert first.id == second.id
        with pytest.raises(Conflict):
            await handler.enter({"prompt": GRAPH, "id": "x"}, KEYED)
        assert len(engine.prompts) <= 1


async def test_a_payload_that_is_nested_too_deeply_is_the_callers_fault(tmp_path):
    """It could be told from no other."""
    deep: list = []
    for _ in range(600):
        deep = [deep]
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(InvalidPayload, match="nested too deeply"):
            await handler.enter({"prompt": GRAPH, "unknown": deep}, KEYED)


@pytest.mark.parametrize(
    ("broken", "error"),
    [({"output_retention_s": 0.0}, InvalidPayload), ("folder", StateUnavailable)],
)
async def test_a_result_that_nobody_could_have_is_not_begun(tmp_path, broken, error):
    """Who neither waits nor says where it shall go is refused where nothing is kept."""
    settings = HERE if broken == "folder" else replace(HERE, **broken)
    if broken == "folder":
        (tmp_path / "state").write_text("in the way")
    async with worker(tmp_path, settings) as (handler, engine), receiving() as receiver:
        with pytest.raises(error):
            await handler.enter(PAYLOAD, LATER)
        assert not engine.prompts
        entry = await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await entry.job.ended()
        await until(lambda: receiver.posts)
        await (await handler.handle(PAYLOAD)).close()


async def test_a_known_key_needs_no_storage(tmp_path):
    """Its result is there, whatever this worker could not do with the payload now."""
    async with worker(tmp_path, replace(HERE, allow_volumes=(tmp_path / "v",))) as (handler, _):
        (tmp_path / "v").mkdir()
        payload = {**PAYLOAD, "volume": {"path": str(tmp_path / "v")}}
        await (await handler.handle(payload, KEYED)).close()
    async with worker(tmp_path, HERE) as (handler, engine):
        with pytest.raises(InvalidPayload):
            await handler.enter(payload)
        async with await handler.handle(payload, KEYED) as answer:
            assert answer.outputs[0].uploads
        assert not engine.prompts


async def test_what_is_refused_is_in_the_log_and_in_the_figures(tmp_path, caplog):
    """With its code and place; the job's own end tells of one that was begun."""
    caplog.set_level("INFO")
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(InvalidPayload):
            await handler.enter({**PAYLOAD, "hf_upload": {"repo": "a/b"}}, KEYED)
        with pytest.raises(InvalidWorkflow):
            await handler.enter({"prompt": BAD}, LATER)
        refused = handler._parts.metrics.refusals.values
    assert dict(refused) == {("invalid_payload", "http"): 1}
    lines = [one.message for one in caplog.records if "refused" in one.message]
    assert len(lines) == 1
    assert "invalid_payload" in lines[0]


async def test_a_result_that_could_not_be_kept_is_no_success(tmp_path):
    """Nobody waits for it, and nobody could ask for it: the job failed, and may be sent again."""
    async with worker(tmp_path, HERE) as (handler, _), receiving() as receiver:
        (tmp_path / "state" / "jobs" / "outputs").write_text("in the way")
        entry = await handler.enter({**PAYLOAD, "id": "a"}, LATER)
        await entry.job.ended()
        told = await handler.stored.public("a")
        assert (told["status"], told["error"]["code"]) == ("failed", "state_unavailable")
        assert told["error"]["retryable"]
        entry = await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await entry.job.ended()
        assert entry.job.phase is Phase.SUCCEEDED
        await until(lambda: receiver.posts)


BRIEF = Submission(answer_within_s=1.0)


async def slow_worker(handler):
    """Have two runs behind us; they took two seconds by the engine's clock, the first one cold."""
    for _ in range(2):
        await (await handler.handle(PAYLOAD)).close()


async def test_what_would_outlast_its_connection_is_not_begun(tmp_path):
    """As far as is known; who waits in any case, or not at all, is taken."""
    async with worker(tmp_path) as (handler, engine):
        await (await handler.handle(PAYLOAD, BRIEF)).close()
        await slow_worker(handler)
        expected = handler._turns.estimate(GRAPH).run_s
        assert expected is not None
        brief = replace(BRIEF, answer_within_s=expected / 2)
        ran = len(engine.prompts)
        with pytest.raises(TooLongToAnswer) as caught:
            await handler.enter(PAYLOAD, brief)
        assert len(engine.prompts) == ran
        assert (caught.value.status, caught.value.retryable) == (422, False)
        for how in (replace(brief, waits=True), replace(brief, respond_async=True)):
            entry = await handler.enter(PAYLOAD, how)
            await entry.job.ended()
        roomy = replace(BRIEF, answer_within_s=expected * 2)
        await (await handler.handle(PAYLOAD, roomy)).close()


async def test_a_result_that_is_known_is_given_however_long_it_took(tmp_path):
    """By its key: nothing is begun for it."""
    async with worker(tmp_path) as (handler, engine):
        await slow_worker(handler)
        await (await handler.handle(PAYLOAD, KEYED)).close()
        ran = len(engine.prompts)
        brief = replace(KEYED, answer_within_s=0.001)
        await (await handler.handle(PAYLOAD, brief)).close()
        assert len(engine.prompts) == ran
        with pytest.raises(TooLongToAnswer):
            await handler.enter(PAYLOAD, replace(brief, key="http:other"))
