"""Results that an answer cannot hold."""

from __future__ import annotations

import dataclasses
import json
import re

import httpx
import pytest

from handler.errors import ResultTooLarge, UploadFailed
from handler.job import Job
from handler.pipeline.spill import ceiling, in_words, spilled
from handler.records import Output
from handler.settings import Settings

SIZE = 5000


@pytest.fixture
def outputs(tmp_path):
    """A file and a text."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"x" * SIZE)
    file = Output("2", "t", "image", "image/png", path.name, SIZE, "00", path=path)
    return [file, Output("2", "t", "text", "text/plain", "2_0.txt", 4, "00", text="said")]


def job(**keys):
    return Job(uid="uid", id="me", **keys)


@pytest.mark.parametrize(
    ("keys", "setting_mb", "limit"),
    [
        ({}, 0, 0),
        ({"inline_bytes": 500}, 0, 500),
        ({}, 2, 2 << 20),
        ({"inline_bytes": 500}, 2, 500),
        ({"inline_bytes": 5 << 20}, 2, 2 << 20),
        ({"inline_bytes": 500, "asynchronous": True}, 2, 0),
    ],
)
def test_the_smaller_ceiling_counts(keys, setting_mb, limit):
    """None for who is told the result elsewhere."""
    assert ceiling(job(**keys), Settings(inline_max_mb=setting_mb)) == limit


@pytest.mark.parametrize("retention_s", [0.0, 60.0])
async def test_without_storage_it_is_refused_with_a_remedy(made, outputs, retention_s):
    """Size, limit, and what to do about it."""
    parts = made(Settings(output_retention_s=retention_s))
    with pytest.raises(ResultTooLarge, match=r"25\.0 MiB.*10\.0 MiB") as caught:
        await spilled(outputs, job(), parts, 25 << 20, 10 << 20)

    error = caught.value
    assert error.details == {
        "bytes": 25 << 20,
        "limit": 10 << 20,
        "outputs": [{"filename": "cat.png", "bytes": SIZE}],
    }
    for remedy in ("s3", "OUTPUT_STORAGE", "convert_output"):
        assert remedy in error.hint
    assert ("/jobs/{id}/outputs/{name}" in error.hint) == bool(retention_s)


async def test_storage_takes_it_and_gives_a_link(made, outputs, s3, storage):
    """That anybody can fetch; texts stay in the answer."""
    parts = made(Settings(output_storage=storage("spill/")))
    file, text = await spilled(outputs, job(), parts, SIZE, 1)

    assert text is outputs[1]
    assert s3.read("spill/uid-cat.png") == (b"x" * SIZE, "image/png")
    assert file.uploads[0]["target"] == "s3"
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(file.url)).content == b"x" * SIZE


async def test_the_operators_own_key_is_taken(made, outputs, s3, storage):
    """In place of one that keeps jobs apart."""
    parts = made(Settings(output_storage=storage("own/", key="{prefix}{id}/{filename}")))
    await spilled(outputs, job(), parts, SIZE, 1)
    assert s3.read("own/me/cat.png")[0] == b"x" * SIZE


async def test_a_storage_that_refuses_is_the_platforms_fault(made, outputs, store):
    """Though OUTPUT_STORAGE has keys in it as a caller's would."""
    auth = {"type": "bearer", "token": "canary4711secret"}
    text = json.dumps({"http_upload": {"url_prefix": store.url(), "auth": auth}})
    store.replies.append((403, {}, "no"))
    with pytest.raises(UploadFailed, match=r"OUTPUT_STORAGE: http_upload: cat\.png") as caught:
        await spilled(outputs, job(), made(Settings(output_storage=text)), SIZE, 1)
    assert (caught.value.blame, caught.value.retryable) == ("platform", False)
    assert "POST /jobs/me/redeliver" in caught.value.hint


async def test_a_storage_that_is_not_set_up_is_told(made, outputs):
    """What to set; the caller can do nothing about it."""
    text = json.dumps({"azure_blob_upload": {"container": "ccc"}})
    with pytest.raises(UploadFailed, match="OUTPUT_STORAGE: azure") as caught:
        await spilled(outputs, job(), made(Settings(output_storage=text)), SIZE, 1)
    assert "AZURE_STORAGE_CONNECTION_STRING" in caught.value.hint
    assert "POST /jobs/me/redeliver" in caught.value.hint
    assert caught.value.blame == "platform"


async def test_jobs_of_one_id_do_not_meet_in_the_storage(made, outputs, tmp_path):
    """A link that was given stays good."""
    folder = tmp_path / "mount"
    folder.mkdir()
    text = json.dumps({"volume": {"path": str(folder)}})
    parts = made(Settings(output_storage=text))
    for uid in ("u1", "u2"):
        await spilled(outputs, dataclasses.replace(job(), uid=uid), parts, SIZE, 1)
    names = sorted(path.name for path in folder.iterdir())
    assert [re.sub(r"^u\d-", "", name) for name in names] == ["cat.png"] * 2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (25 << 20, "25.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_are_for_people(size, text):
    """In the unit that fits."""
    assert in_words(size) == text
