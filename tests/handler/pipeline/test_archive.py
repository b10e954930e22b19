"""All outputs of a job as one ZIP file."""

from __future__ import annotations

import asyncio
import hashlib
import zipfile

import pytest
from worker import GRAPH, received

from handler.errors import InternalFault
from handler.pipeline.archive import archived
from handler.pipeline.stages import Collected, Ran
from handler.records import Output


def of_file(path, data=b"data", size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    size = len(data) if size is None else size
    return Output("2", "t", "image", "image/png", path.name, size, "00", path=path)


def of_text(text, name="2_0.txt"):
    return Output("2", "t", "text", "text/plain", name, len(text.encode()), "00", text=text)


async def zipped(parts, outputs, **keys):
    before = Collected(Ran(GRAPH, ["2"]), outputs)
    return before, await archived(before, received(**keys), parts)


async def test_without_a_wish_nothing_changes(made, tmp_path):
    """Nor where there is nothing."""
    before, after = await zipped(made(), [of_file(tmp_path / "a.png")])
    assert after is before
    before, after = await zipped(made(), [], archive="zip")
    assert after is before


async def test_all_outputs_become_one_file(made, tmp_path):
    """Texts are files, too; equal names do not meet, in whatever case."""
    parts = made()
    outputs = [
        of_file(tmp_path / "a" / "x.png", b"one"),
        of_file(tmp_path / "b" / "X.png", b"two"),
        of_text("zwölf"),
        of_file(tmp_path / "猫 b.bin", bytes(3_000_000)),
    ]
    _, after = await zipped(parts, outputs, id="../me", archive="zip")
    (whole,) = after.outputs

    assert (whole.filename, whole.mime, whole.kind) == ("_me.zip", "application/zip", "file")
    assert whole.path.is_relative_to(parts.scratch / "uid")
    raw = whole.path.read_bytes()
    assert (whole.bytes, whole.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    with zipfile.ZipFile(whole.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["x.png", "X-2.png", "2_0.txt", "猫 b.bin"]
        assert archive.read("2_0.txt").decode() == "zwölf"
        assert archive.read("X-2.png") == b"two"


@pytest.mark.parametrize("how", ["gone", "shrunk"])
async def test_an_archive_that_cannot_be_written_fails_the_job(made, tmp_path, how):
    """Never one with less in it."""
    output = of_file(tmp_path / "a.png", size=100 if how == "shrunk" else None)
    if how == "gone":
        output.path.unlink()
    with pytest.raises(InternalFault, match="archive") as caught:
        await zipped(made(), [output], archive="zip")
    assert caught.value.retryable


async def test_a_cancel_ends_the_writing(made, tmp_path):
    """The thread does not go on for gigabytes."""
    outputs = [of_file(tmp_path / f"{n}.bin", bytes(1 << 20)) for n in range(50)]
    parts = made()
    work = asyncio.create_task(zipped(parts, outputs, archive="zip"))
    path = parts.scratch / "uid" / "archive" / "job.zip"
    while not path.exists():
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
