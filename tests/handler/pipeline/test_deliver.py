"""Collected -> Answer: the result with its figures, outputs uploaded or inline."""

from __future__ import annotations

import time

import pytest
from worker import GRAPH, parts_in, received

from handler.errors import ResultTooLarge
from handler.pipeline.deliver import Clock, deliver
from handler.pipeline.run import JobFolder
from handler.pipeline.stages import Collected, Ran
from handler.pipeline.uploads import uploading
from handler.records import JOBS_FOLDER, Output
from handler.settings import Settings

TEXT = Output("2", "", "text", "text/plain", "2_0.txt", 5000, "00", text="x" * 5000)


async def delivered(parts, ran, outputs=(), *, inline_bytes=0, asynchronous=False, **keys):
    job = received(**keys)
    job.job.stage_s["queued"] = 0.25
    job.job.inline_bytes, job.job.asynchronous = inline_bytes, asynchronous
    folder = JobFolder(job.job, parts)
    collected = Collected(ran, list(outputs))
    async with uploading(job, parts) as uploads:
        clock = Clock(time.monotonic() - 2.0, 0.5, 1.0)
        return await deliver(collected, job, parts, folder, clock, uploads)


@pytest.fixture
def picture(tmp_path):
    """An output of 5000 bytes."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"x" * 5000)
    return Output("2", "t", "image", "image/png", path.name, 5000, "00", path=path)


async def test_times_are_told_in_milliseconds_and_add_up(tmp_path):
    """Preprocessing, the engine, and the rest are the total."""
    stats = (await delivered(parts_in(tmp_path), Ran(GRAPH, []))).tail["stats"]

    assert (stats["preprocess_time"], stats["comfy_round_trip_time"]) == (500, 1000)
    parts = stats["preprocess_time"] + stats["comfy_round_trip_time"] + stats["postprocess_time"]
    assert abs(stats["total_time"] - parts) < 0.01
    assert 2000 <= stats["total_time"] < 4000
    assert (stats["queue_time"], stats["upload_time"]) == (250, 0)
    assert "spilled" not in stats


async def test_the_wait_for_uploads_is_told_by_itself(made, store, picture):
    """What is over before the run is counts for nothing; the sum is still the total."""
    target = {"url_prefix": store.url("/up")}
    stats = (await delivered(made(), Ran(GRAPH, []), [picture], http_upload=target)).tail["stats"]

    assert stats["upload_time"] > 0
    names = ("preprocess_time", "comfy_round_trip_time", "postprocess_time", "upload_time")
    assert abs(stats["total_time"] - sum(stats[name] for name in names)) < 0.01


async def test_the_request_is_echoed_and_the_engine_named(tmp_path):
    """The graph as it ran; conversion options as comfyui-api spells them."""
    ran, parts = Ran({"1": {"class_type": "X"}}, []), parts_in(tmp_path)
    plain = await delivered(parts, ran, id="me")
    assert plain.head == {"id": "me", "prompt": ran.graph}
    assert plain.tail["engine"] == {"kind": "memory", "version": "0"}
    assert plain.archive is False

    wish = {"format": "jpeg", "options": {"chromaSubsampling": "4:4:4"}}
    converted = await delivered(parts, ran, convert_output=wish, archive="zip")
    assert converted.head["convert_output"]["options"]["chromaSubsampling"] == "4:4:4"
    assert converted.archive is True


async def test_closing_the_answer_removes_the_jobs_files(tmp_path):
    """It owns them from here on."""
    answer = await delivered(parts_in(tmp_path), Ran(GRAPH, []))
    path = tmp_path / "output" / JOBS_FOLDER / "uid" / "a"
    path.parent.mkdir(parents=True)
    path.touch()
    await answer.close()

    assert not path.parent.exists()


async def test_several_targets_have_the_output_and_the_first_is_told(made, store, picture, s3):
    """All of them in `uploads`, in the contract's order, which is not the request's."""
    answer = await delivered(
        made(),
        Ran(GRAPH, []),
        [picture, TEXT],
        http_upload={"url_prefix": store.url("/up")},
        s3=s3("several/"),
    )
    body = await answer.json()

    assert body["images"] == ["s3://results/several/cat.png"]
    assert body["filenames"] == ["cat.png"]
    file, text = body["outputs"]
    assert [(one["target"], one["url"]) for one in file["uploads"]] == [
        ("s3", "s3://results/several/cat.png"),
        ("http_upload", store.url("/up/cat.png")),
    ]
    assert text["text"] == TEXT.text
    assert body["s3"]["prefix"] == "several/"
    assert "canary4711secret" not in str(body)


@pytest.mark.parametrize(("room", "spills"), [(1000, False), (-1000, True)])
async def test_the_ceiling_is_the_whole_answers(made, picture, storage, room, spills):
    """Base64 and graph included, not the file's own size."""
    parts, ran = made(Settings(output_storage=storage("edge/"))), Ran(GRAPH, [])
    length = (await delivered(parts, ran, [picture])).content_length()
    answer = await delivered(parts, ran, [picture], inline_bytes=length + room)

    assert length > picture.bytes * 4 / 3
    assert answer.tail["stats"].get("spilled", False) is spills
    assert bool(answer.outputs[0].url) is spills


async def test_what_has_a_url_already_is_not_spilled(made, store, picture, storage):
    """It is as small as can be."""
    parts = made(Settings(output_storage=storage("unused/")))
    target = {"url_prefix": store.url("/up")}
    answer = await delivered(parts, Ran(GRAPH, []), [picture], inline_bytes=1, http_upload=target)
    assert answer.outputs[0].url == store.url("/up/cat.png")
    assert "spilled" not in answer.tail["stats"]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_only_who_waits_has_a_ceiling(made, picture, asynchronous):
    """A webhook brings what there is."""
    work = delivered(made(), Ran(GRAPH, []), [picture], inline_bytes=100, asynchronous=asynchronous)
    if asynchronous:
        assert (await work).outputs == [picture]
    else:
        with pytest.raises(ResultTooLarge):
            await work


async def test_texts_alone_are_never_too_large(made):
    """There is nothing that could go elsewhere."""
    answer = await delivered(made(), Ran(GRAPH, []), [TEXT], inline_bytes=100)
    assert answer.outputs == [TEXT]
