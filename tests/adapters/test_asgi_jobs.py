"""The routes of jobs: looked at, listed, followed, fetched, stopped."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
from http_worker import LATER, PAYLOAD, Gate, fault, in_phase, served, told
from running import TWO, playing
from sources.puts import storing
from starlette.applications import Starlette
from worker import GRAPH, serving, until, worker

from adapters.asgi import error_answer, make_app
from adapters.asgi_body import JsonBodies
from adapters.asgi_jobs import job_routes
from handler.engine.memory import PIXEL
from handler.errors import HandlerError
from handler.job import Phase
from handler.settings import Settings
from handler.submission import Submission

LOCAL = Settings(url_allow_hosts="127.0.0.1")


async def accepted(client, job_id, **keys):
    """Begin a job that nobody waits for."""
    answer = await client.post(
        "/prompt", json={"prompt": GRAPH, "id": job_id, **keys}, headers=LATER
    )
    assert answer.status_code == 202, answer.text
    return answer


async def over(client, job_id):
    """Wait for a job's end and give its events."""
    return told((await client.get(f"/jobs/{job_id}/events")).text)


# -- looked at ------------------------------------------------------------------------------------


async def test_a_job_can_be_looked_at(tmp_path):
    """While it waits, runs and after its end; any text is an id."""
    gate, odd = Gate(), "a/b c\nü"
    async with served(tmp_path, script=gate) as (client, handler, _):
        job = handler.submit({**PAYLOAD, "id": odd})
        await until(lambda: job.phase is Phase.RUNNING)
        running = (await client.get("/jobs/a%2Fb%20c%0A%C3%BC")).json()
        assert (running["id"], running["status"], running["position"]) == (odd, "running", 0)
        gate.open.set()
        await (await handler.result(job)).close()
        done = (await client.get("/jobs/a%2Fb%20c%0A%C3%BC")).json()
        assert (done["status"], done["position"]) == ("succeeded", None)
        for path in ("", "/events", "/result", "/archive", "/outputs/x"):
            fault(await client.get(f"/jobs/other{path}"), 404, "not_found")
        fault(await client.post("/jobs/other/cancel"), 404, "not_found")


@pytest.mark.parametrize("job_id", ["a/events", "events", "a/result", "a/outputs/b", "a/cancel"])
async def test_an_id_may_read_like_a_route(tmp_path, job_id):
    """Location leads to it all the same."""
    async with served(tmp_path) as (client, _, _):
        location = (await accepted(client, job_id)).headers["location"]
        assert "event: succeeded" in (await client.get(f"{location}/events")).text
        assert (await client.get(location)).json()["id"] == job_id
        assert (await client.get(f"{location}/result")).json()["id"] == job_id
        href = (await client.get(location)).json()["outputs"][0]["href"]
        assert (await client.get(href)).content == PIXEL
        assert (await client.post(f"{location}/cancel")).json()["id"] == job_id


def happened(events):
    """Leave the steps of progress out: on disk the newest take the place of others."""
    return [event for event in events if event["event"] != "progress"]


async def test_a_job_is_known_after_a_restart(tmp_path):
    """Its record, its events, its result and its outputs."""
    async with served(tmp_path) as (client, _, _):
        await accepted(client, "me")
        events = await over(client, "me")
        before = (await client.get("/jobs/me")).json()
    async with served(tmp_path) as (client, _, _):
        after = (await client.get("/jobs/me")).json()
        again = (await client.get("/jobs/me/events")).text
        result = (await client.get("/jobs/me/result")).json()
        output = await client.get(after["outputs"][0]["href"])

    assert set(after) == set(before)
    known = ("id", "status", "created_at", "finished_at", "outputs", "error", "adapter")
    assert {key: after[key] for key in known} == {key: before[key] for key in known}
    assert happened(told(again)) == happened(events)
    assert base64.b64decode(result["images"][0]) == output.content == PIXEL


# -- listed ---------------------------------------------------------------------------------------


async def test_jobs_are_listed_page_by_page(tmp_path):
    """The newest first, each once, whatever the size of a page."""
    async with served(tmp_path) as (client, _, _):
        names = [f"job-{n}" for n in range(7)]
        for name in names:
            await accepted(client, name)
            await over(client, name)
        for limit in (1, 2, 3, 7, 200):
            found, after, pages = [], None, 0
            while pages == 0 or after is not None:
                query = {"limit": limit} | ({"after": after} if after else {})
                page = (await client.get("/jobs", params=query)).json()
                assert len(page["jobs"]) <= limit
                found += [job["id"] for job in page["jobs"]]
                after, pages = page["next"], pages + 1
            assert found == names[::-1]


async def test_jobs_are_listed_by_how_they_are(tmp_path):
    """By a status or a group of them, and by how they came."""
    gate = Gate()
    async with served(tmp_path, Settings(engine_prefetch=1), script=gate) as (client, handler, _):
        await accepted(client, "runs")
        await in_phase(handler, "runs", Phase.RUNNING)
        await accepted(client, "waits")
        await in_phase(handler, "waits", Phase.QUEUED)
        await client.post("/prompt", json={"prompt": {}, "id": "failed"})

        async def ids(**query):
            answer = await client.get("/jobs", params=query)
            assert answer.status_code == 200
            return {job["id"] for job in answer.json()["jobs"]}

        assert await ids() == {"runs", "waits", "failed"}
        assert await ids(status="active") == {"runs", "waits"}
        assert await ids(status="over") == await ids(status="failed") == {"failed"}
        assert await ids(status="running") == {"runs"}
        assert await ids(status="queued", adapter="http") == {"waits"}
        assert await ids(adapter="runpod") == set()
        gate.open.set()
        await over(client, "waits")


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("status=busy", "status"),
        ("status=", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("adapter=a%20b", "adapter"),
        ("after=nothing", "after"),
        ("after=", "after"),
    ],
)
async def test_what_cannot_be_listed_is_told(tmp_path, query, location):
    """400, and which parameter."""
    async with served(tmp_path) as (client, _, _):
        answer = await client.get(f"/jobs?{query}")
    assert fault(answer, 400, "invalid_payload")["location"] == location


# -- followed -------------------------------------------------------------------------------------


async def test_events_are_streamed_until_the_end(tmp_path):
    """Numbered, and resumed by Last-Event-ID, which counts before the query."""
    async with served(tmp_path) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        response = await client.get("/jobs/me/events")
        await (await handler.result(job)).close()
        again = await client.get("/jobs/me/events?after=1", headers={"last-event-id": "2"})
        asked = await client.get("/jobs/me/events?after=2")
        odd = await client.get("/jobs/me/events", headers={"last-event-id": "x"})
        head = await client.head("/jobs/me/events")

    events = told(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert head.headers["content-type"] == response.headers["content-type"]
    assert response.text.startswith("retry: ")
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["event"] == "succeeded"
    assert told(again.text) == told(asked.text) == events[2:]
    assert odd.text == response.text


async def test_a_listener_that_saw_the_end_is_sent_away(tmp_path):
    """204: a browser would come again for ever."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD)
        last = told((await client.get("/jobs/me/events")).text)[-1]["id"]
        again = await client.get("/jobs/me/events", headers={"last-event-id": last})
    assert (again.status_code, again.content) == (204, b"")


async def test_a_listener_that_comes_and_goes_misses_nothing(tmp_path):
    """Cut off after every event: what it read in all is what there was."""
    gate = asyncio.Event()
    async with served(tmp_path, script=playing(gate=gate)) as (client, _, _):
        await accepted(client, "me", prompt=TWO)
        seen, last = [], "0"
        while not seen or seen[-1]["event"] != "succeeded":
            headers = {"last-event-id": last}
            async with client.stream("GET", "/jobs/me/events", headers=headers) as response:
                text = ""
                async for part in response.aiter_text():
                    text += part
                    if "\n\n" in text:
                        break
            event = told(text[: text.index("\n\n") + 2])[0]
            seen, last = [*seen, event], event["id"]
            if event["event"] == "output":
                gate.set()
        whole = await over(client, "me")

    assert [int(event["id"]) for event in seen] == list(range(1, len(seen) + 1))
    assert [event for event in whole if event not in seen] == []
    assert sum(event["event"] == "output" for event in seen) == 2


@pytest.mark.parametrize(
    ("query", "wanted"), [("", False), ("?previews=1", True), ("?previews=no", False)]
)
async def test_a_follower_may_ask_for_previews(tmp_path, query, wanted):
    """Pictures are sent to who wants them."""
    async with served(tmp_path) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        await client.get(f"/jobs/me/events{query}")
        assert job.wants_previews is wanted
        await (await handler.result(job)).close()


async def test_previews_of_a_job_that_is_not_here_are_nobodys(tmp_path):
    """Its events are told all the same."""
    async with served(tmp_path) as (client, _, _):
        await accepted(client, "me")
        await over(client, "me")
    async with served(tmp_path) as (client, _, _):
        assert "succeeded" in (await client.get("/jobs/me/events?previews=1")).text


async def test_who_goes_away_is_no_follower_any_more(tmp_path):
    """The job goes on without it."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        job = handler.submit(PAYLOAD)
        await until(lambda: job.phase is Phase.RUNNING)
        async with client.stream("GET", "/jobs/me/events") as response:
            await until(lambda: job.followed)
            assert response.status_code == 200
        await until(lambda: not job.followed)
        gate.open.set()
        await (await handler.result(job)).close()


# -- fetched --------------------------------------------------------------------------------------


async def test_a_result_is_there_when_the_job_is_over(tmp_path):
    """202 and when to ask again before; any number of times after, in any form."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        await accepted(client, "me")
        await in_phase(handler, "me", Phase.RUNNING)
        early = await client.get("/jobs/me/result")
        gate.open.set()
        await over(client, "me")
        answers = [await client.get("/jobs/me/result") for _ in range(2)]
        raw = await client.get("/jobs/me/result", headers={"accept": "image/*"})
        unfit = await client.get("/jobs/me/result", headers={"accept": "video/mp4"})

    assert (early.status_code, early.json()) == (202, {"id": "me", "status": "running"})
    assert early.headers["retry-after"] == "1"
    for answer in answers:
        assert base64.b64decode(answer.json()["images"][0]) == PIXEL
        assert answer.json()["stats"]["adapter"] == "http"
    assert raw.content == PIXEL
    assert raw.headers["x-comfyfn-engine"].startswith("memory")
    fault(unfit, 406, "not_acceptable")


async def test_the_result_of_a_job_that_failed_is_its_error(tmp_path):
    """As its caller was told."""
    async with served(tmp_path) as (client, _, _):
        refused = await client.post("/prompt", json={"prompt": {}, "id": "me"})
        result = await client.get("/jobs/me/result")
    assert (result.status_code, result.json()) == (400, refused.json())


async def test_a_result_that_was_given_away_is_gone(tmp_path):
    """What was answered on a connection is not kept."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD)
        fault(await client.get("/jobs/me/result"), 410, "result_gone")


# -- stopped --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def silent_server():
    """A server that takes connections and says nothing; give its URL."""
    came, left = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        came.set()
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.png", came, left
    finally:
        server.close()


async def cancelled(client, job_id):
    """Cancel a job and see it end."""
    answer = await client.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    assert answer.json() == {"id": job_id, "status": "cancelled", "cancelled": True}
    assert (await over(client, job_id))[-1]["event"] == "cancelled"
    fault(await client.get(f"/jobs/{job_id}/result"), 499, "cancelled")
    again = (await client.post(f"/jobs/{job_id}/cancel")).json()
    assert again == {"id": job_id, "status": "cancelled", "cancelled": False}


async def test_a_job_is_cancelled_before_the_engine_is_there(tmp_path):
    """It waits for the boot."""
    async with served(tmp_path, start=False) as (client, handler, _):
        await accepted(client, "me")
        await in_phase(handler, "me", Phase.RECEIVED)
        await cancelled(client, "me")


async def test_a_job_is_cancelled_while_it_fetches(tmp_path):
    """The download ends with it."""
    async with silent_server() as (url, came, left), served(tmp_path, LOCAL) as (client, _, _):
        load = {"class_type": "LoadImage", "inputs": {"image": url}}
        await accepted(client, "me", prompt={"1": load, "2": GRAPH["2"]})
        await asyncio.wait_for(came.wait(), 10)
        assert (await client.get("/jobs/me")).json()["status"] == "fetching"
        await cancelled(client, "me")
        await asyncio.wait_for(left.wait(), 10)


async def test_a_job_is_cancelled_while_it_waits_or_runs(tmp_path):
    """The other one is not touched."""
    gate = Gate()
    async with served(tmp_path, Settings(engine_prefetch=1), script=gate) as (client, handler, _):
        for job_id, phase in (("runs", Phase.RUNNING), ("waits", Phase.QUEUED)):
            await accepted(client, job_id)
            await in_phase(handler, job_id, phase)
        await accepted(client, "stays")
        await cancelled(client, "waits")
        await cancelled(client, "runs")
        gate.open.set()
        assert (await over(client, "stays"))[-1]["event"] == "succeeded"


async def test_a_job_is_cancelled_while_it_uploads(tmp_path):
    """The storage takes its time."""
    async with storing() as store, served(tmp_path, LOCAL) as (client, handler, _):
        store.gate = asyncio.Event()
        await accepted(client, "me", http_upload={"url_prefix": store.url("/in")})
        await in_phase(handler, "me", Phase.DELIVERING)
        await until(lambda: store.now)
        await cancelled(client, "me")


async def test_a_cancelled_job_tells_who_waits_for_it(tmp_path):
    """499, as by /interrupt."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        await in_phase(handler, "me", Phase.RUNNING)
        assert (await client.post("/jobs/me/cancel")).json()["cancelled"] is True
        fault(await call, 499, "cancelled")


async def test_a_job_that_is_over_stays_so(tmp_path):
    """200, and that nothing was cancelled."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD)
        answer = await client.post("/jobs/me/cancel")
        late = await client.post("/interrupt", json={"id": "me"})
    assert answer.json() == {"id": "me", "status": "succeeded", "cancelled": False}
    assert (late.status_code, late.json()["interrupted"]) == (404, "failed")


async def test_a_job_is_interrupted_by_its_id(tmp_path):
    """Its caller gets 499; a second time there is nothing to interrupt."""
    gate = Gate()
    async with served(tmp_path, script=gate) as (client, handler, _):
        call = asyncio.create_task(client.post("/prompt", json=PAYLOAD))
        await in_phase(handler, "me", Phase.RUNNING)
        first = await client.post("/interrupt", json={"id": "me"})
        assert (first.status_code, first.json()) == (200, {"id": "me", "interrupted": "success"})
        fault(await call, 499, "cancelled")
        second = await client.post("/interrupt", json={"id": "me"})
        assert (second.status_code, second.json()["interrupted"]) == (404, "failed")


@pytest.mark.parametrize("body", [{}, {"id": ""}, {"id": 5}, [], "me"])
async def test_an_interrupt_needs_an_id(tmp_path, body):
    """400, and which key."""
    async with served(tmp_path) as (client, _, _):
        answer = fault(await client.post("/interrupt", json=body), 400, "invalid_payload")
    assert answer["location"] == "id"


# -- several workers ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_workers(tmp_path, **options):
    """Clients of two workers with one STATE_URL, and the first one's handler."""
    settings = Settings(state_url=str(tmp_path / "common"))
    async with (
        worker(tmp_path / "a", settings, **options) as (first, _),
        worker(tmp_path / "b", settings) as (second, _),
        serving(make_app(first, settings)) as a,
        serving(make_app(second, settings)) as b,
    ):
        yield a, b, first


async def test_another_worker_answers_for_a_job(tmp_path):
    """The poll, the events, the result, the output, the list and the replay."""
    async with two_workers(tmp_path) as (a, b, _):
        answer = await a.post("/prompt", json=PAYLOAD, headers={**LATER, "Idempotency-Key": "k"})
        assert answer.status_code == 202
        await over(a, "me")
        await until_over(b, "me")
        record = (await b.get("/jobs/me")).json()
        events = told((await b.get("/jobs/me/events")).text)
        result = (await b.get("/jobs/me/result")).json()
        output = await b.get(record["outputs"][0]["href"])
        listed = (await b.get("/jobs")).json()["jobs"]
        replay = await b.post("/prompt", json=PAYLOAD, headers={"Idempotency-Key": "k"})

    assert (record["status"], events[-1]["event"]) == ("succeeded", "succeeded")
    assert base64.b64decode(result["images"][0]) == output.content == PIXEL
    assert [job["id"] for job in listed] == ["me"]
    assert base64.b64decode(replay.json()["images"][0]) == PIXEL
    assert replay.headers["idempotent-replayed"] == "true"


async def until_over(client, job_id):
    """Wait until a worker tells that a job is over."""
    async with asyncio.timeout(20):
        while (await client.get(f"/jobs/{job_id}/result")).status_code == 202:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", ["cancel", "interrupt"])
async def test_another_worker_is_asked_to_cancel(tmp_path, way):
    """The one that has the job does so soon."""
    gate = Gate()
    async with two_workers(tmp_path, script=gate) as (a, b, first):
        await accepted(a, "me")
        job = await in_phase(first, "me", Phase.RUNNING)
        if way == "cancel":
            answer = await b.post("/jobs/me/cancel")
            assert answer.json()["cancelled"] is True
        else:
            answer = await b.post("/interrupt", json={"id": "me"})
            assert answer.json() == {"id": "me", "interrupted": "success"}
        assert answer.status_code == 200
        await until(lambda: job.phase is Phase.CANCELLED, 20)


async def test_followers_are_bounded(tmp_path):
    """One over the limit is told to ask instead; those that leave make room."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        await handler.enter({"prompt": GRAPH, "id": "a"}, Submission(respond_async=True))
        routes = job_routes(handler, JsonBodies(), most_followers=1)
        app = Starlette(routes=routes, exception_handlers={HandlerError: error_answer})
        async with serving(app) as client:
            await one_follower_at_a_time(client, gate)


async def one_follower_at_a_time(client, gate):
    """Follow job `a` twice, then once more when the first is gone."""
    async with client.stream("GET", "/jobs/a/events") as first:
        await anext(first.aiter_bytes())
        fault(await client.get("/jobs/a/events"), 429, "queue_full")
    gate.open.set()
    async with asyncio.timeout(10):
        while (await client.get("/jobs/a/events")).status_code != 200:
            await asyncio.sleep(0.01)
