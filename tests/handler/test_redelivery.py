"""Kept outputs brought to a storage after their job, on the engine in memory and a real store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sources.puts import storing
from worker import GRAPH, until, worker

from handler.engine.events import NodeOutput, Started, Succeeded
from handler.engine.memory import save_pictures
from handler.errors import (
    Conflict,
    Draining,
    InvalidPayload,
    NotFound,
    QueueFull,
    ResultGone,
    UploadFailed,
    UrlNotAllowed,
)
from handler.log_context import current_mark
from handler.redelivery import Redelivery, parse_targets
from handler.settings import Settings
from handler.submission import Submission

LONG = "many words\r\n" * 1000
REFUSED = (403, {}, "not today")


@pytest.fixture
async def store():
    async with storing() as running:
        yield running


@pytest.fixture
def s3():
    """What makes upload objects for a store that speaks S3, and how an object is read."""
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="results")
    auth = {"access_key_id": "AK", "secret_access_key": "SK"}

    def target(prefix, **more):
        return {"bucket": "results", "prefix": prefix, "endpoint": endpoint, "auth": auth, **more}

    yield target, lambda key: client.get_object(Bucket="results", Key=key)["Body"].read()
    client.close()
    running.stop()


@contextlib.asynccontextmanager
async def refused(home, store, settings=None, **keys):
    """Give a handler, the name of a job whose storage refused its picture, and its bytes."""
    store.replies.append(REFUSED)
    async with worker(home, settings) as (handler, _):
        target = {"http_upload": {"url_prefix": store.url("/first")}}
        with pytest.raises(UploadFailed):
            await handler.handle({"prompt": GRAPH, "id": "job", **target, **keys})
        yield handler, store.puts[-1].body


async def with_texts(prompt, files):
    """A script with a picture and texts."""
    async for event in save_pictures(prompt, files):
        if isinstance(event, Succeeded):
            yield NodeOutput("2", {"text": ["short", LONG]})
        yield event


async def only_a_text(prompt, files):
    """A script with nothing that is a file."""
    yield Started(1_000)
    yield NodeOutput("2", {"text": ["short"]})
    yield Succeeded(2_000)


def to(store, path="/again", **keys):
    return {"http_upload": {"url_prefix": store.url(path), **keys}}


async def test_what_a_storage_refused_is_stored_later(tmp_path, store):
    """Byte for byte, and the answer tells where, as an answer to /prompt does."""
    async with refused(tmp_path, store) as (handler, body):
        done = await handler.redelivery.redeliver("job", to(store))

        (name,) = done.body["filenames"]
        assert not done.accepted
        assert store.files == {f"/again/{name}": body}
        assert done.body["images"] == [store.url(f"/again/{name}")]
        assert done.body["id"] == "job"
        assert done.body["outputs"][0]["uploads"][0]["target"] == "http_upload"
        assert done.body["stats"]["upload_time"] > 0
        assert not list((tmp_path / "scratch").iterdir())


async def test_outputs_stay_kept(tmp_path, store):
    """Another storage may be wanted, too; and a process that comes later still has them."""
    async with refused(tmp_path, store) as (handler, _):
        await handler.redelivery.redeliver("job", to(store))
        await handler.redelivery.redeliver("job", to(store, "/third"))
    async with worker(tmp_path) as (later, _):
        told = (await later.stored.public("job"))["redelivery"]
        assert (told["status"], told["targets"]) == ("succeeded", ["http_upload"])
        await later.redelivery.redeliver("job", to(store, "/fourth"))
        folders = {path.split("/")[1] for path in store.files}
        assert folders == {"again", "third", "fourth"}


async def test_a_storage_may_refuse_again(tmp_path, store):
    """It is told as an upload of a job is, and the next try is as good as this one."""
    async with refused(tmp_path, store) as (handler, _):
        store.replies.append(REFUSED)
        with pytest.raises(UploadFailed, match="not today"):
            await handler.redelivery.redeliver("job", to(store))
        assert (await handler.stored.public("job"))["redelivery"]["status"] == "failed"

        done = await handler.redelivery.redeliver("job", to(store))
        assert len(done.body["images"]) == 1


async def test_several_storages_are_all_served(tmp_path, store):
    """The first one's URLs are the images."""
    settings = Settings(allow_volumes=(tmp_path / "disk",))
    (tmp_path / "disk").mkdir()
    async with refused(tmp_path, store, settings) as (handler, body):
        payload = {**to(store), "volume": {"path": str(tmp_path / "disk")}}
        done = await handler.redelivery.redeliver("job", payload)

        (name,) = done.body["filenames"]
        assert (tmp_path / "disk" / name).read_bytes() == body
        assert store.files[f"/again/{name}"] == body
        assert [one["target"] for one in done.body["outputs"][0]["uploads"]] == [
            "http_upload",
            "volume",
        ]


async def test_async_goes_on_behind_the_answer(tmp_path, store):
    """The job's record tells how it ended."""
    store.gate = asyncio.Event()
    store.gate.set()
    async with refused(tmp_path, store) as (handler, _):
        store.gate.clear()
        begun = await handler.redelivery.redeliver("job", to(store, **{"async": True}))
        assert begun.accepted
        assert begun.body["status"] == "ok"
        assert (await handler.stored.public("job"))["redelivery"] is None

        store.gate.set()
        await handler.redelivery.drain(10)
        told = (await handler.stored.public("job"))["redelivery"]
        assert told["status"] == "succeeded"
        assert [path for path in store.files if path.startswith("/again/")]


async def test_an_asynchronous_job_is_delivered_once_more(tmp_path, store):
    """What is kept because its job was not waited for is as good."""
    async with worker(tmp_path) as (handler, _):
        entry = await handler.enter({"prompt": GRAPH}, Submission(respond_async=True))
        await entry.mine.ended()
        await until(lambda: handler.find(entry.id).kept)
        done = await handler.redelivery.redeliver(entry.id, to(store))
        assert len(store.files) == len(done.body["images"]) == 1


async def test_texts_are_told_and_files_are_stored(tmp_path, store):
    """As in the answer of a job: a text is no file."""
    async with worker(tmp_path, script=with_texts) as (handler, _):
        entry = await handler.enter({"prompt": GRAPH}, Submission(respond_async=True))
        await entry.mine.ended()
        done = await handler.redelivery.redeliver(entry.id, to(store))
        assert [one["text"] for one in done.body["outputs"] if one["text"]] == ["short", LONG]
        assert len(store.files) == len(done.body["filenames"]) == 1


async def test_a_job_without_files_has_nothing_to_deliver(tmp_path, store):
    """Its texts are told where the job is asked for."""
    async with worker(tmp_path, script=only_a_text) as (handler, _):
        entry = await handler.enter({"prompt": GRAPH}, Submission(respond_async=True))
        await entry.mine.ended()
        with pytest.raises(ResultGone, match="no files"):
            await handler.redelivery.redeliver(entry.id, to(store))


async def test_what_was_answered_is_gone(tmp_path, store):
    """Nobody kept it: who waited for it has it."""
    async with worker(tmp_path) as (handler, _):
        await (await handler.handle({"prompt": GRAPH, "id": "answered"})).close()
        with pytest.raises(ResultGone):
            await handler.redelivery.redeliver("answered", to(store))
        assert not store.puts


async def test_what_is_not_kept_any_more_is_gone(tmp_path, store):
    """Its record is there, its files are not."""
    async with refused(tmp_path, store) as (handler, _):
        for file in (tmp_path / "state").rglob("outputs/*/*/*"):
            file.unlink()
        with pytest.raises(ResultGone, match="not kept"):
            await handler.redelivery.redeliver("job", to(store))


async def test_a_job_that_runs_is_a_conflict(tmp_path, store):
    """It delivers by itself what it was asked to."""
    async with worker(tmp_path, start=False) as (handler, _):
        job = handler.submit({"prompt": GRAPH})
        with pytest.raises(Conflict, match="not over"):
            await handler.redelivery.redeliver(job.id, to(store))


async def test_an_unknown_job_is_not_found(tmp_path, store):
    """A record that nobody has delivers nothing."""
    async with worker(tmp_path) as (handler, _):
        with pytest.raises(NotFound):
            await handler.redelivery.redeliver("never", to(store))


async def test_a_storage_is_checked_before(tmp_path, store):
    """By the address policy, and by what is set up here."""
    async with refused(tmp_path, store) as (handler, _):
        with pytest.raises(UrlNotAllowed):
            await handler.redelivery.redeliver(
                "job", {"http_upload": {"url_prefix": "http://169.254.169.254/x"}}
            )
        with pytest.raises(InvalidPayload, match="s3"):
            await handler.redelivery.redeliver("job", {"s3": {"bucket": "results"}})


async def test_few_run_at_once_and_few_wait(tmp_path, store):
    """Beyond that a caller is told to come again."""
    store.gate = asyncio.Event()
    store.gate.set()
    async with refused(tmp_path, store) as (handler, _):
        own = Redelivery(
            handler._parts, handler._jobs, handler.stored, handler._ledger, at_once=2, most=3
        )
        store.gate.clear()
        store.most = 0
        for _ in range(3):
            await own.redeliver("job", to(store, **{"async": True}))
        with pytest.raises(QueueFull):
            await own.redeliver("job", to(store))
        await until(lambda: store.now == 2)
        store.gate.set()
        await own.drain(10)
        assert store.most == 2


async def test_the_end_of_the_server_ends_it(tmp_path, store):
    """Who waits is told, nothing is left, and none is taken from then on."""
    store.gate = asyncio.Event()
    store.gate.set()
    async with refused(tmp_path, store) as (handler, _):
        store.gate.clear()
        waiting = asyncio.create_task(handler.redelivery.redeliver("job", to(store)))
        await until(lambda: store.now == 1)
        await handler.redelivery.close()
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            await handler.redelivery.redeliver("job", to(store))
        assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ([], "object"),
        ({}, "no storage"),
        ({"s3": None}, "no storage"),
        ({"http_uplod": {}}, "http_uplod"),
        ({"s3": {"bucket": "b", "prefx": "p"}}, "prefx"),
        ({"s3": {}}, "bucket"),
        ({"s3": {"bucket": "bucket"}, "webhook_v2": "https://example.org"}, "webhook"),
    ],
)
def test_a_payload_without_storage_is_refused(payload, told):
    """Misspelt keys and wishes that are not served are told."""
    with pytest.raises(InvalidPayload, match=told):
        parse_targets(payload)


def test_a_repr_tells_no_secret(tmp_path, store):
    """URLs may let anybody in."""
    (target,) = parse_targets({"presigned": {"url": "https://e.org/x?sig=canary4711"}})
    assert "canary" not in repr(target)


async def test_a_link_is_for_who_waits_and_the_record_has_the_place(tmp_path, store, s3):
    """A link lets anybody in, and dies; so with an answer that is given again."""
    target, read = s3
    keyed = Submission(key="http:k")
    payload = {"prompt": GRAPH, "id": "direct", "s3": target("direct/", presign_s=60)}
    async with refused(tmp_path, store) as (handler, _):
        done = await handler.redelivery.redeliver("job", {"s3": target("again/", presign_s=60)})
        async with await handler.handle(payload, keyed) as answer:
            first = await answer.json()
        async with await handler.handle(payload, keyed) as answer:
            again = await answer.json()
        events = [one async for one in handler.stored.events("direct", 0)]
        told = [await handler.stored.public(job_id) for job_id in ("job", "direct")]
        told += [again, *(event.data for event in events)]
        lists = await handler.stored.page(None, None, None, 9)

    for body, folder in ((done.body, "again"), (first, "direct")):
        (link,), (name,) = body["images"], body["filenames"]
        assert "Signature" in link
        assert read(f"{folder}/{name}")
        entry = body["outputs"][0]["uploads"][0]
        assert entry["location"] == f"s3://results/{folder}/{name}"
        assert 0 < entry["expires_at"] - time.time() <= 61
    assert again["images"] == [first["outputs"][0]["uploads"][0]["location"]]
    assert told[0]["redelivery"]["images"] == [done.body["outputs"][0]["uploads"][0]["location"]]
    assert "Signature" not in json.dumps([told, lists])
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert [path for path in files if b"X-Amz-Signature" in path.read_bytes()] == []


async def test_lines_of_a_redelivery_know_their_job(tmp_path, store, caplog):
    """Those of the uploads, too."""
    marks = []

    class Watch(logging.Filter):
        def filter(self, record):
            if record.name == "comfyfn.delivery":
                marks.append(current_mark())
            return True

    watch = Watch()
    caplog.handler.addFilter(watch)
    with caplog.at_level(logging.INFO):
        async with refused(tmp_path, store) as (handler, _):
            marks.clear()
            await handler.redelivery.redeliver("job", to(store))
    caplog.handler.removeFilter(watch)
    assert len(marks) >= 2
    assert {mark and mark.job_id for mark in marks} == {"job"}
