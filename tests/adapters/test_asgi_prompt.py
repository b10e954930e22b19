"""`POST /prompt`: answered, promised, joined, replayed."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
from http_worker import LATER, PAYLOAD, Gate, fault, in_phase, served
from receiver import receiving
from sources.puts import storing
from starlette.datastructures import Headers
from worker import GRAPH, until

from adapters.asgi_prompt import preferences, submission, wait_of
from handler.engine.memory import PIXEL
from handler.errors import InvalidPayload
from handler.job import Phase
from handler.settings import Settings

LOCAL = Settings(url_allow_hosts="127.0.0.1")
KEY = {"Idempotency-Key": "k-1"}


async def followed(client, job_id):
    """Read the events until the job is over."""
    return (await client.get(f"/jobs/{job_id}/events")).text


# -- 202 ------------------------------------------------------------------------------------------


async def test_who_does_not_wait_is_told_where_to_ask(tmp_path):
    """202 with the contract's body; the result is under Location."""
    async with served(tmp_path) as (client, _, _):
        accepted = await client.post("/prompt", json={**PAYLOAD, "id": "a/b c"}, headers=LATER)
        location = accepted.headers["location"]
        await client.get(f"{location}/events")
        result = (await client.get(f"{location}/result")).json()

    assert accepted.status_code == 202
    assert accepted.json() == {"id": "a/b c", "prompt": GRAPH, "status": "ok"}
    assert location == "/jobs/a%2Fb%20c"
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.headers["x-comfyfn-id"] == "a%2Fb%20c"
    assert base64.b64decode(result["images"][0]) == PIXEL


async def test_a_webhook_is_answered_with_202(tmp_path):
    """No preference was asked for, and none is said to be applied."""
    async with receiving() as receiver, served(tmp_path, LOCAL) as (client, _, _):
        hook = {"webhook_v2": receiver.url(), "convert_output": {"format": "webp"}}
        accepted = await client.post("/prompt", json={**PAYLOAD, **hook})
        posts = await receiver.got(1)

    assert accepted.status_code == 202
    body = accepted.json()
    assert (body["id"], body["status"], body["prompt"]) == ("me", "ok", GRAPH)
    assert body["convert_output"]["format"] == "webp"
    assert "preference-applied" not in accepted.headers
    assert posts[0].id == "me"


async def test_an_async_upload_is_answered_with_202(tmp_path):
    """Its outcome is read at the job; in a graph the drawn id is told."""
    async with storing() as store, served(tmp_path, LOCAL) as (client, _, _):
        target = {"http_upload": {"url_prefix": store.url("/in"), "async": True}}
        accepted = await client.post("/prompt", json={"prompt": GRAPH, **target})
        location = accepted.headers["location"]
        await client.get(f"{location}/events")
        record = (await client.get(location)).json()
        result = (await client.get(f"{location}/result")).json()

    assert accepted.status_code == 202
    assert accepted.json()["http_upload"]["async"] is True
    assert record["status"] == "succeeded"
    (upload,) = record["outputs"][0]["uploads"]
    assert upload["url"] == record["outputs"][0]["url"] == store.url(*store.files)
    assert result["images"] == [upload["url"]]


async def test_a_graph_that_is_refused_is_no_promise(tmp_path):
    """The fault is told at once."""
    async with served(tmp_path) as (client, _, _):
        fault(
            await client.post("/prompt", json={"prompt": {}}, headers=LATER), 400, "no_output_node"
        )


@pytest.mark.parametrize("prefer", ["respond-async, wait=20", "wait=20; x=y,respond-async"])
async def test_who_would_wait_a_while_gets_the_result_if_it_is_there(tmp_path, prefer):
    """200, with the request repeated and in any form."""
    async with served(tmp_path) as (client, _, _):
        headers = {"Prefer": prefer}
        answer = await client.post("/prompt", json=PAYLOAD, headers=headers)
        raw = await client.post(
            "/prompt", json={"prompt": GRAPH}, headers={**headers, "Accept": "image/*"}
        )

    assert (answer.status_code, raw.content) == (200, PIXEL)
    assert base64.b64decode(answer.json()["images"][0]) == PIXEL
    assert answer.json()["prompt"] == GRAPH
    assert answer.headers["preference-applied"] == "wait=20"


async def test_who_waited_in_vain_gets_202(tmp_path):
    """The job goes on."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        headers = {"Prefer": "respond-async, wait=1"}
        accepted = await client.post("/prompt", json=PAYLOAD, headers=headers)
        assert accepted.status_code == 202
        assert accepted.headers["preference-applied"] == "respond-async"
        assert handler.find("me").phase is Phase.RUNNING
        gate.open.set()
        assert "event: succeeded" in await followed(client, "me")


async def test_who_goes_away_while_it_waits_a_while_ends_nothing(tmp_path):
    """It was promised."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        headers = {"Prefer": "respond-async, wait=20"}
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD, headers=headers))
        job = await in_phase(handler, "me", Phase.RUNNING)
        await leaving(call)
        gate.open.set()
        await until(lambda: job.phase is Phase.SUCCEEDED)


async def test_a_job_that_fails_within_the_wait_is_told_as_such(tmp_path):
    """As on a connection that waits."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        headers = {"Prefer": "respond-async, wait=20"}
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD, headers=headers))
        await in_phase(handler, "me", Phase.RUNNING)
        handler.cancel("me")
        assert fault(await call, 499, "cancelled")
        assert (await call).headers["x-comfyfn-id"] == "me"


# -- keys and ids ---------------------------------------------------------------------------------


async def test_the_same_key_is_answered_with_the_same_result(tmp_path):
    """Run once; the second answer says that it is a replay, in every form."""
    async with served(tmp_path) as (client, _, engine):
        payload = {"prompt": GRAPH}
        first = await client.post("/prompt", json=payload, headers=KEY)
        again = await client.post("/prompt", json=payload, headers=KEY)
        raw = await client.post("/prompt", json=payload, headers={**KEY, "Accept": "image/png"})
        parts = await client.post(
            "/prompt", json=payload, headers={**KEY, "Accept": "multipart/mixed"}
        )
        later = await client.post("/prompt", json=payload, headers={**KEY, **LATER})
        assert len(engine.prompts) == 1

    assert "idempotent-replayed" not in first.headers
    assert first.json()["images"] == again.json()["images"]
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["replayed"] is True
    assert raw.content == PIXEL
    assert PIXEL in parts.content
    assert later.status_code == 202
    for answer in (again, raw, parts, later):
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.headers["x-comfyfn-id"] == first.json()["id"]


async def test_the_same_key_at_once_is_one_run(tmp_path):
    """The second joins, and does not end with the first's connection."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, engine):
        calls = [
            asyncio.create_task(client.post("/prompt", json=PAYLOAD, headers=KEY)) for _ in range(2)
        ]
        await in_phase(handler, "me", Phase.RUNNING)
        await until(lambda: handler.find("me").joined == 1)
        gate.open.set()
        answers = await asyncio.gather(*calls)
        assert len(engine.prompts) == 1

    assert [answer.status_code for answer in answers] == [200, 200]
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None", "true"]
    assert answers[0].json()["images"] == answers[1].json()["images"]


async def test_another_payload_under_the_same_key_is_a_conflict(tmp_path):
    """409, whatever became of the first."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD, headers=KEY)
        other = await client.post("/prompt", json={**PAYLOAD, "id": "you"}, headers=KEY)
    fault(other, 409, "conflict")
    assert other.json()["location"] == "header.Idempotency-Key"


async def test_a_plain_id_is_joined_while_it_runs(tmp_path):
    """By the same payload; another one is a conflict; after the end it is a new run."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, engine):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        job = await in_phase(handler, "me", Phase.RUNNING)
        twin = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        await until(lambda: job.joined == 1)
        other = await client.post("/prompt", json={**PAYLOAD, "include_temp": True})
        fault(other, 409, "conflict")
        gate.open.set()
        answers = [await call, await twin]
        assert len(engine.prompts) == 1
        await client.post("/prompt", json=PAYLOAD)
        assert len(engine.prompts) == 2

    assert [answer.status_code for answer in answers] == [200, 200]
    assert not any("idempotent-replayed" in answer.headers for answer in answers)


async def test_a_job_with_a_key_outlives_its_connection(tmp_path):
    """Whoever lost it comes again."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD, headers=KEY))
        job = await in_phase(handler, "me", Phase.RUNNING)
        await leaving(call)
        gate.open.set()
        await until(lambda: job.phase is Phase.SUCCEEDED)
        again = await client.post("/prompt", json=PAYLOAD, headers=KEY)
    assert base64.b64decode(again.json()["images"][0]) == PIXEL


async def test_a_client_that_goes_away_cancels_its_job(tmp_path):
    """Nothing runs for nobody."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, engine):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        job = await in_phase(handler, "me", Phase.RUNNING)
        await leaving(call)
        await until(lambda: job.phase is Phase.CANCELLED)
        await until(lambda: engine.cancelled)


async def leaving(call):
    """Hang up."""
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
async def test_a_key_that_is_none_is_refused(tmp_path, key):
    """400, and which header."""
    async with served(tmp_path) as (client, _, engine):
        headers = {"Idempotency-Key": key.encode("latin-1")}
        answer = await client.post("/prompt", json=PAYLOAD, headers=headers)
        assert fault(answer, 400, "invalid_payload")["location"] == "header.Idempotency-Key"
        assert not engine.prompts


def test_two_keys_are_none():
    """Which one should count?"""
    with pytest.raises(InvalidPayload):
        submission(Headers(raw=[(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]))


# -- headers --------------------------------------------------------------------------------------


async def test_every_answer_names_its_job(tmp_path):
    """Good and bad, where one was begun; and its span in the caller's trace."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    async with served(tmp_path) as (client, _, _):
        good = await client.post("/prompt", json=PAYLOAD, headers=headers)
        bad = await client.post("/prompt", json={"prompt": {}, "id": "you"}, headers=headers)
        unfit = await client.post("/prompt", json=PAYLOAD, headers={"Accept": "video/mp4"})
        none = await client.post("/prompt", json={"prompt": GRAPH, "id": 5})

    assert (good.headers["x-comfyfn-id"], bad.headers["x-comfyfn-id"]) == ("me", "you")
    assert fault(bad, 400, "no_output_node")
    assert (unfit.status_code, unfit.headers["x-comfyfn-id"]) == (406, "me")
    assert "x-comfyfn-id" not in none.headers
    assert good.headers["traceparent"].startswith(f"00-{trace}-")
    assert good.headers["traceparent"] != headers["traceparent"]
    assert bad.headers["traceparent"].startswith(f"00-{trace}-")


def test_preferences_are_read_as_the_standard_has_them():
    """Several in a header, several headers, parameters, values in quotes; the first one counts."""
    assert preferences([]) == preferences([" , ;x=y"]) == {}
    assert preferences(["Respond-Async, wait=10"]) == {"respond-async": "", "wait": "10"}
    assert preferences(['foo="bar"; baz', 'wait = "5", wait=6']) == {"foo": "bar", "wait": "5"}


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("respond-async, wait=10", 10),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=x", 0),
        ("wait=²", 0),
        ("wait=3600", 3600),
        ("wait=3601", 0),
        (f"wait={'9' * 5000}", 0),
        ("", 0),
    ],
)
def test_a_wait_is_a_number_of_seconds(prefer, seconds):
    """Up to an hour; what is none is passed over."""
    raw = [(b"prefer", prefer.encode("latin-1"))]
    assert wait_of(Headers(raw=raw)) == seconds


def test_a_submission_has_what_the_headers_say():
    """The key with its scope."""
    how = submission(Headers({"Idempotency-Key": "k", "Prefer": "x, respond-async"}))
    assert (how.adapter, how.key, how.respond_async, how.traceparent) == (
        "http",
        "http:k",
        True,
        "",
    )
    plain = submission(Headers({"traceparent": "00-x"}))
    assert (plain.key, plain.respond_async, plain.traceparent) == (None, False, "00-x")
