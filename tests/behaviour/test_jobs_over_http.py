"""Jobs as a client has them: results not lost, events without a gap, an end at will."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from behaviour.driving import (
    assert_error,
    assert_no_files_left,
    later,
    wait_phase,
    wait_until,
)
from behaviour.graphs import Graph, load, node, picture, slow
from behaviour.test_events import follow, parse
from live import LiveServer, live_server
from sources.puts import storing
from sources.stores import s3_store
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from behaviour.conftest import StartServer
    from behaviour.file_server import FileServer
    from sources.puts import Store

BIG = 25_000_000
CEILING = {"INLINE_MAX_MB": "10", "URL_ALLOW_HOSTS": "127.0.0.1", "UPLOAD_TRIES": "2"}
REFUSAL: tuple[int, dict[str, str], str] = (403, {}, "not you")
LATER = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give a server whose answers may have 10 MiB, without a storage for what is larger."""
    with live_server(tmp_path_factory.mktemp("tight"), **CEILING) as running:
        yield running


@pytest.fixture(scope="module")
def spilling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give one that has such a storage."""
    with s3_store() as store:
        store.put("results", "others", b"")
        env = {
            **CEILING,
            "OUTPUT_STORAGE": orjson.dumps({"s3": {"bucket": "results", "prefix": "p/"}}).decode(),
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SK",
        }
        with live_server(tmp_path_factory.mktemp("spilling"), **env) as running:
            yield running


@pytest.fixture
def store() -> Iterator[Store]:
    """Give a store that takes files by PUT."""
    with threaded(storing()) as running:
        yield running


def big(size: int = BIG) -> Graph:
    """Give a graph of one file that does not compress."""
    return {"1": node("TestNoiseFile", name="noise.bin", size_bytes=size, seed=5)}


def background(server: LiveServer, job_id: str, graph: Graph, **keys: Any) -> None:
    """Begin a job that nobody waits for."""
    body = {"prompt": graph, "id": job_id, **keys}
    answer = server.post("/prompt", body, headers=LATER)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{job_id}"


def job(server: LiveServer, job_id: str) -> dict[str, Any]:
    """Ask for a job."""
    answer = server.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def fetched(server: LiveServer, output: dict[str, Any]) -> bytes:
    """Fetch a kept output, and hold it against what is told of it."""
    answer = server.get(output["href"])
    assert answer.status_code == 200
    assert len(answer.content) == output["bytes"]
    assert hashlib.sha256(answer.content).hexdigest() == output["sha256"]
    return answer.content


# -- results that an answer cannot hold -----------------------------------------------------------


def test_large_result_goes_to_the_operators_storage(spilling: LiveServer) -> None:
    """Over the ceiling the caller gets a link that anybody can fetch; a small one comes inside."""
    answer = spilling.prompt(big())
    assert answer.status_code == 200, answer.text[:2000]
    body = answer.json()
    (url,), (output,) = body["images"], body["outputs"]
    content = httpx.get(url, trust_env=False, timeout=30).content

    assert len(answer.content) < 10_000
    assert (len(content), output["bytes"]) == (BIG, BIG)
    assert hashlib.sha256(content).hexdigest() == output["sha256"]
    assert output["uploads"][0]["target"] == "s3"
    assert body["stats"]["spilled"] is True
    small = spilling.prompt(big(100_000)).json()
    assert len(small["images"][0]) > 100_000


def test_large_result_without_a_storage_is_refused_and_kept(tight: LiveServer) -> None:
    """With its size, the limit and what helps; the file is there all the same."""
    body = assert_error(tight.prompt(big(), id="too-large"), 422, "result_too_large")

    told = body["details"]
    assert (told["limit"], told["outputs"][0]["bytes"]) == (10 << 20, BIG)
    assert told["bytes"] > BIG * 4 // 3
    assert all(word in body["hint"] for word in ("OUTPUT_STORAGE", "s3", "/jobs/{id}/outputs"))
    (output,) = job(tight, "too-large")["outputs"]
    assert len(fetched(tight, output)) == BIG


def test_ceiling_is_for_answers_only(tight: LiveServer) -> None:
    """What nobody waits for is fetched file by file."""
    background(tight, "asked-later", big())
    wait_phase(tight, "asked-later", "succeeded")
    (output,) = job(tight, "asked-later")["outputs"]
    assert len(fetched(tight, output)) == BIG


# -- uploads and their outcome --------------------------------------------------------------------


def test_outcomes_of_uploads_outlive_the_server(start_server: StartServer, store: Store) -> None:
    """Good or bad, waited for or not: told at /jobs, files kept, re-delivered, after a restart."""
    server = start_server(URL_ALLOW_HOSTS="127.0.0.1", UPLOAD_TRIES="2")
    upload = {"url_prefix": store.url("/up")}
    background(server, "good", picture(), http_upload={**upload, "async": True})
    wait_phase(server, "good", "succeeded")
    store.replies = [REFUSAL] * 8
    answer = server.prompt(picture(), id="waited", http_upload=upload)
    error = assert_error(answer, 502, "upload_failed")
    assert "http_upload" in error["error"]
    accepted = server.prompt(picture(), id="bad", http_upload={**upload, "async": True})
    assert (accepted.status_code, accepted.json()["status"]) == (202, "ok")
    wait_phase(server, "bad", "failed")
    before = {name: job(server, name) for name in ("good", "waited", "bad")}
    assert server.stop() == 0
    server.start()

    after = {name: job(server, name) for name in before}
    for name in before:
        for key in ("status", "error", "outputs"):
            assert after[name][key] == before[name][key], (name, key)
    (stored,) = after["good"]["outputs"]
    assert stored["uploads"][0]["url"] == store.url(f"/up/{stored['filename']}")
    stats = error.pop("stats")  # a record has them beside the error
    assert (after["waited"]["error"], after["waited"]["stats"]) == (error, stats)
    assert (after["bad"]["status"], after["bad"]["error"]["code"]) == ("failed", "upload_failed")
    store.replies = []
    for name in ("waited", "bad"):
        (kept,) = after[name]["outputs"]
        content = fetched(server, kept)
        elsewhere = {"http_upload": {"url_prefix": store.url(f"/again-{name}")}}
        done = server.post(f"/jobs/{name}/redeliver", elsewhere)
        assert done.status_code == 200, done.text
        path = f"/again-{name}/{kept['filename']}"
        assert done.json()["images"] == [store.url(path)]
        assert store.files[path] == content


# -- events ---------------------------------------------------------------------------------------


def listen(server: LiveServer, job_id: str, count: int, last: int = 0) -> list[Any]:
    """Read some events of a job, and then cut the connection."""
    text = ""
    headers = {"Last-Event-ID": str(last)}
    url = f"{server.url}/jobs/{job_id}/events"
    with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
        for part in answer.iter_text():
            text += part
            if len(events := parse(_whole(text))) >= count:
                return events
    return parse(_whole(text))


def _whole(text: str) -> str:
    """Give the frames that are complete, without the stream's own words."""
    frames = [frame for frame in text.split("\n\n")[:-1] if "data: " in frame]
    return "\n\n".join(frame[frame.index("id: ") :] for frame in frames)


def test_listener_who_is_cut_off_again_and_again_misses_nothing(tight: LiveServer) -> None:
    """Resumed by its last id each time, until the end: every event once, in order."""
    background(tight, "cut", slow("embedded", 1.5))
    seen: list[Any] = []
    for _ in range(100):
        seen += listen(tight, "cut", 2, seen[-1][0] if seen else 0)
        if seen[-1][1] == "succeeded":
            break

    assert [seq for seq, _, _ in seen] == list(range(1, seen[-1][0] + 1))
    assert seen[-1][1] == "succeeded"


def test_events_are_resumed_after_a_restart(start_server: StartServer) -> None:
    """By another process, of a job that is over: all but steps of progress that others overtook."""
    server = start_server()
    background(server, "done", slow("embedded", 0.6))
    first = listen(server, "done", 3)
    wait_phase(server, "done", "succeeded")
    whole = follow(server, "done")
    assert server.stop() == 0
    server.start()

    rest = follow(server, "done", first[-1][0])
    assert rest == [
        event
        for event in whole
        if event[0] > first[-1][0] and (event[1] != "progress" or event in rest)
    ]
    steps = [event for event in whole if event[1] == "progress"]
    assert steps[-1] in rest
    assert server.get("/jobs/done/events", headers={"Last-Event-ID": str(whole[-1][0])}).text == ""


def test_events_of_a_job_whose_server_was_killed_have_an_end(start_server: StartServer) -> None:
    """What was told is not told again, and the last one says that the worker was lost."""
    server = start_server()
    background(server, "killed", slow("embedded", 60))
    wait_phase(server, "killed", "running")
    first = listen(server, "killed", 6)
    server.stop(signal.SIGKILL)
    server.start()

    rest = follow(server, "killed", first[-1][0])
    seqs = [seq for seq, _, _ in first + rest]
    assert seqs == sorted(set(seqs))
    assert (rest[-1][1], rest[-1][2]["code"]) == ("failed", "worker_lost")
    assert rest[-1][2]["retryable"]
    whole = follow(server, "killed")
    assert [event for event in whole if event[0] > first[-1][0]] == rest


# -- cancelling -----------------------------------------------------------------------------------


def cancel(server: LiveServer, job_id: str) -> None:
    """Cancel a job, and make sure that it says so at once and for good."""
    answer = server.post(f"/jobs/{job_id}/cancel", None)
    assert answer.json() == {"id": job_id, "status": "cancelled", "cancelled": True}
    wait_phase(server, job_id, "cancelled", limit_s=2)
    assert_error(server.get(f"/jobs/{job_id}/result"), 499, "cancelled")
    again = server.post(f"/jobs/{job_id}/cancel", None)
    assert again.json() == {"id": job_id, "status": "cancelled", "cancelled": False}
    assert follow(server, job_id)[-1][1] == "cancelled"


def test_cancelled_during_a_download(tight: LiveServer, files: FileServer) -> None:
    """A slow source is not waited for."""
    background(tight, "downloads", load(f"{files.url}/slow.png"))
    wait_phase(tight, "downloads", "fetching")
    assert files.asked.wait(10)
    cancel(tight, "downloads")
    assert_no_files_left(tight)


def test_cancelled_while_queued_and_while_running(tight: LiveServer) -> None:
    """The one that runs is not touched by the end of those behind it; then the engine is free."""
    background(tight, "runs", slow("embedded", 60))
    wait_phase(tight, "runs", "running")
    for name in ("in-engine", "in-line"):
        background(tight, name, picture())
        wait_phase(tight, name, "queued")
    for name in ("in-line", "in-engine"):
        cancel(tight, name)
    assert job(tight, "runs")["status"] == "running"
    cancel(tight, "runs")
    assert tight.prompt(picture()).status_code == 200
    assert_no_files_left(tight)


@pytest.mark.parametrize("waited_for", [True, False])
def test_cancelled_while_uploading(tight: LiveServer, store: Store, waited_for: bool) -> None:
    """A storage that does not answer is not waited for; who waits is told."""
    store.gate = asyncio.Event()
    job_id = f"uploads-{waited_for}"
    upload = {"http_upload": {"url_prefix": store.url("/up")}}
    if waited_for:
        answer = later(tight.prompt, picture(), id=job_id, **upload)
    else:
        background(tight, job_id, picture(), **upload)
    wait_until("the store has the file", lambda: store.puts)
    wait_phase(tight, job_id, "delivering")
    cancel(tight, job_id)
    if waited_for:
        assert_error(answer.result(5), 499, "cancelled")
    assert_no_files_left(tight)
