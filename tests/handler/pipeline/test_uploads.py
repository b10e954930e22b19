"""The uploads of one job: each output is on its way while the rest of the graph still runs."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from worker import received, until

from handler.delivery.base import Uploaded
from handler.delivery.delivery import Sent
from handler.engine.memory import PIXEL, write_picture
from handler.errors import ConversionFailed, EngineRefused
from handler.job import Job, Phase
from handler.pipeline.collect import collect
from handler.pipeline.convert import convert
from handler.pipeline.stages import Ran
from handler.pipeline.uploads import TELL_EVERY_S, upload_teller, uploading, with_urls
from handler.records import JOBS_FOLDER, Output

OWN = f"{JOBS_FOLDER}/uid"
GRAPH = {"2": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "the picture"}}}
TEXT = Output("2", "", "text", "text/plain", "2_0.txt", 4, "00", text="said")


def picture(parts, name="a", data=PIXEL):
    return write_picture(parts.engine.files, f"{OWN}/{name}", data)


def to(store, **keys):
    return received(GRAPH, http_upload={"url_prefix": store.url("/up")}, **keys)


def sent_by(job):
    return [event.data for event in job.events if event.type == "upload"]


async def test_a_job_without_targets_has_no_uploads(made):
    """Nothing is begun early, and nothing of the providers loads."""
    async with uploading(received(), made()) as uploads:
        assert uploads is None


async def test_what_is_announced_is_uploaded_at_once(made, store):
    """Before anybody collects; the stages are given what was submitted, and nothing goes twice."""
    parts, job = made(), to(store, convert_output={"format": "webp"})
    told = {"images": [picture(parts, "a"), picture(parts, "b")], "text": ["said"]}
    async with uploading(job, parts) as uploads:
        uploads.announce("2", told, GRAPH)
        await until(lambda: len(store.files) == 2)
        collected = await collect(Ran(GRAPH, ["2"], told={"2": told}), job, parts, uploads)
        converted = await convert(collected, job, parts, uploads)
        outputs = await uploads.finish(converted.outputs)

    assert [o.filename for o in collected.outputs] == ["a_00001_.png", "b_00001_.png", "2_0.txt"]
    assert [o.title for o in outputs] == ["the picture"] * 3
    urls = [store.url(f"/up/{name}_00001_.webp") for name in "ab"]
    assert [output.url for output in outputs] == [*urls, None]
    assert [put.headers["content-type"] for put in store.puts] == ["image/webp"] * 2
    for output in outputs[:2]:
        assert store.files[f"/up/{output.filename}"] == output.path.read_bytes()


async def test_the_first_of_equal_names_keeps_it(made, store):
    """Whichever is ready first: a large one is announced before a small one."""
    parts, job = made(), to(store)
    told = {"images": [picture(parts, "a", bytes(5_000_000)), picture(parts, "sub/a")]}
    async with uploading(job, parts) as uploads:
        uploads.announce("2", told, GRAPH)
        await until(lambda: len(store.files) == 2)

    assert len(store.files["/up/a_00001_.png"]) == 5_000_000
    assert store.files["/up/a_00001_-2.png"] == PIXEL


async def test_previews_go_nowhere_unless_asked_for(made, store, tmp_path):
    """Nor does the caller's own input; what is told again is not done again."""
    parts = made()
    (tmp_path / "temp" / "p.png").write_bytes(PIXEL)
    (tmp_path / "input" / "i.png").write_bytes(PIXEL)
    told = {
        "images": [{"filename": "p.png", "type": "temp"}, {"filename": "i.png", "type": "input"}]
    }
    for wanted in (False, True):
        async with uploading(to(store, include_temp=wanted), parts) as uploads:
            uploads.announce("2", told, GRAPH)
            uploads.announce("2", told, GRAPH)
            assert repr(uploads) == f"<Uploads of job: {int(wanted)} early>"
            await until(lambda wanted=wanted: len(store.puts) == int(wanted))
    assert list(store.files) == ["/up/p.png"]


async def test_of_an_archive_nothing_goes_early(made, store):
    """One file of all is stored, and not the single ones."""
    parts, job = made(), to(store, archive="zip")
    async with uploading(job, parts) as uploads:
        uploads.announce("2", {"images": [picture(parts)]}, GRAPH)
        assert "0 early" in repr(uploads)


async def test_a_fault_is_told_by_the_stage_that_it_belongs_to(made, store):
    """A file that is not there, and a picture that cannot be converted."""
    parts, job = made(), to(store, convert_output={"format": "webp"})
    gone = {"images": [{"filename": "gone.png", "subfolder": OWN, "type": "output"}]}
    broken = {"images": [picture(parts, "broken", PIXEL[:60])]}
    async with uploading(job, parts) as uploads:
        uploads.announce("2", gone, GRAPH)
        with pytest.raises(EngineRefused, match="not there"):
            await collect(Ran(GRAPH, ["2"], told={"2": gone}), job, parts, uploads)
    async with uploading(job, parts) as uploads:
        uploads.announce("2", broken, GRAPH)
        collected = await collect(Ran(GRAPH, ["2"], told={"2": broken}), job, parts, uploads)
        with pytest.raises(ConversionFailed):
            await convert(collected, job, parts, uploads)
    assert store.puts == []


async def test_faults_that_nobody_waits_for_are_no_loose_ends(made, store, caplog):
    """The run failed, too: its error is the one that is told."""
    parts, job = made(), to(store)
    gone = {"images": [{"filename": "gone.png", "subfolder": OWN, "type": "output"}]}
    async with uploading(job, parts) as uploads:
        uploads.announce("2", gone, GRAPH)
        await asyncio.sleep(0)
    assert caplog.records == []


async def test_what_is_under_way_is_ended_with_the_job(made, store):
    """A cancel, or a run that fails: no upload lives on."""
    store.gate = asyncio.Event()
    parts, job = made(), to(store)
    before = asyncio.all_tasks()
    async with uploading(job, parts) as uploads:
        uploads.announce("2", {"images": [picture(parts)]}, GRAPH)
        await until(lambda: store.puts)
    left = {task for task in asyncio.all_tasks() - before if "_store" in repr(task)}
    assert left == set()
    assert store.files == {}


def test_urls_and_places_are_noted_by_target():
    """The first target's URL is the output's; a text stays as it is."""
    first = Uploaded("s3", "s3://b/a", "s3://b/a", 5, 0.12345, '"e"', 1000, 1123)
    second = Uploaded("volume", "/mnt/a", "/mnt/a", 5, 0.1)
    file = dataclasses.replace(TEXT, filename="a.png", text=None)
    one, two = with_urls([file, TEXT], [(first, second), ()])

    assert one.url == "s3://b/a"
    assert one.uploads[0] == {
        "target": "s3",
        "url": "s3://b/a",
        "location": "s3://b/a",
        "bytes": 5,
        "seconds": 0.1235,
        "etag": '"e"',
        "started_ms": 1000,
        "ended_ms": 1123,
    }
    assert [entry["target"] for entry in one.uploads] == ["s3", "volume"]
    assert two is TEXT


def test_progress_is_told_now_and_then_and_at_the_end():
    """Of each file at each target by itself; never after the job's end."""
    job = Job(uid="u", id="j")
    tell = upload_teller(job)
    began = time.monotonic()
    for sent in range(1, 100):
        tell(Sent("s3", "a.png", sent, 100))
    tell(Sent("volume", "a.png", 50, 100))
    tell(Sent("s3", "a.png", 100, 100))
    if time.monotonic() - began < TELL_EVERY_S:
        assert sent_by(job)[-1] == {
            "target": "s3",
            "filename": "a.png",
            "sent": 100,
            "size": 100,
        }
        assert len(sent_by(job)) <= 3
    job.enter(Phase.CANCELLED)
    tell(Sent("s3", "b.png", 100, 100))
    assert [told["filename"] for told in sent_by(job) if told["filename"] == "b.png"] == []


def test_a_link_is_told_with_its_place_and_its_end():
    """So that whoever has it knows when it is dead."""
    link = Uploaded("s3", "https://b/a?sig=x", "s3://b/a", 5, 0.1, expires_at=1060)
    file = dataclasses.replace(TEXT, filename="a.png", text=None)
    (one,) = with_urls([file], [(link,)])

    assert one.url == "https://b/a?sig=x"
    entry = one.uploads[0]
    assert (entry["url"], entry["location"]) == (one.url, "s3://b/a")
    assert entry["expires_at"] == 1060
