"""Collected -> Collected: images in the format that was asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import pytest
from worker import GRAPH, parts_in, received

from handler.engine.memory import PIXEL, write_picture
from handler.errors import ConversionFailed
from handler.job import Job
from handler.pipeline.collect import collect
from handler.pipeline.convert import convert
from handler.pipeline.stages import CONVERTERS, Ran
from handler.records import JOBS_FOLDER

OWN = f"{JOBS_FOLDER}/uid"
WEBP = {"format": "webp"}


async def collected(home, job, *prefixes, text=False):
    parts = parts_in(home)
    told = {"images": [write_picture(parts.engine.files, p) for p in prefixes]}
    if text:
        told["text"] = ["said"]
    return await collect(Ran(GRAPH, ["2"], told={"2": told}), job, parts), parts


async def test_without_a_wish_nothing_changes(tmp_path):
    """Bit for bit what the engine wrote."""
    job = received()
    before, parts = await collected(tmp_path, job, f"{OWN}/a")

    assert await convert(before, job, parts) is before


async def test_every_image_is_converted_and_described_anew(tmp_path):
    """Same node, new name, type, size and hash; equal names do not meet."""
    job = received(convert_output=WEBP)
    before, parts = await collected(tmp_path, job, f"{OWN}/a", f"{OWN}/sub/a")
    after = await convert(before, job, parts)

    assert [output.filename for output in after.outputs] == ["a_00001_.webp"] * 2
    assert {output.mime for output in after.outputs} == {"image/webp"}
    assert len({output.path for output in after.outputs}) == 2
    for old, new in zip(before.outputs, after.outputs, strict=True):
        assert (new.node_id, new.title, new.width) == (old.node_id, old.title, old.width)
        assert new.path.stat().st_size == new.bytes
        assert new.path.is_relative_to(parts.scratch / "uid")
        assert new.sha256 != old.sha256


async def test_what_is_no_image_stays_as_it_is(tmp_path):
    """Texts, films, sound."""
    job = received(convert_output=WEBP)
    before, parts = await collected(tmp_path, job, f"{OWN}/a", text=True)
    after = await convert(before, job, parts)

    assert [output.kind for output in after.outputs] == ["image", "text"]
    assert after.outputs[1] is before.outputs[1]


async def test_an_image_that_cannot_be_converted_fails_the_job(tmp_path):
    """Never the original in its place."""
    job = received(convert_output=WEBP)
    before, parts = await collected(tmp_path, job, f"{OWN}/a")
    before.outputs[0].path.write_bytes(PIXEL[:60])
    with pytest.raises(ConversionFailed):
        await convert(before, job, parts)


async def test_a_preview_stays_one_by_its_node(tmp_path):
    """Fields that only the run knows are kept where the file is new."""
    job = received(convert_output=WEBP)
    before, parts = await collected(tmp_path, job, f"{OWN}/a")
    temp = dataclasses.replace(before.outputs[0], temp=True)
    after = await convert(dataclasses.replace(before, outputs=[temp]), job, parts)

    assert after.outputs[0].temp is True


async def test_all_jobs_share_the_few_threads_that_encode(tmp_path):
    """Twenty pictures of ten jobs do not starve the engine of cores."""
    parts = parts_in(tmp_path)
    jobs = []
    for number in range(10):
        one = received(convert_output=WEBP)
        job = dataclasses.replace(one, job=Job(uid=f"uid{number}", id="j"))
        prefixes = [f"{JOBS_FOLDER}/uid{number}/{name}" for name in "ab"]
        told = {"images": [write_picture(parts.engine.files, p) for p in prefixes]}
        before = await collect(Ran(GRAPH, ["2"], told={"2": told}), job, parts)
        jobs.append(convert(before, job, parts))
    others = threading.active_count()
    for after in await asyncio.gather(*jobs):
        assert [output.mime for output in after.outputs] == ["image/webp"] * 2

    threads = {t.name for t in threading.enumerate() if t.name.startswith("convert")}
    assert len(threads) == CONVERTERS
    assert threading.active_count() <= others + CONVERTERS
    parts.converters.shutdown()
