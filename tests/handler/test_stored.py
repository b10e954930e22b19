"""Answers and errors made of records."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from handler.errors import (
    BootFailed,
    EngineDied,
    ExecutionFailed,
    InvalidWorkflow,
    ResultGone,
    UploadFailed,
)
from handler.settings import Settings
from handler.state.place import open_state
from handler.state.records import JobRecord, OutputRecord
from handler.stored import StoredError, stored_answer, stored_outputs

RECORD = JobRecord(
    id="j", uid="f" * 32, instance="w", created=1.0, phase="succeeded", stats={"total_time": 5}
)
HEAD = {"id": "j", "prompt": {}}


@pytest.fixture
async def state(tmp_path):
    settings = Settings(state_dir=tmp_path / "state")
    made = await open_state(settings, lambda: None, time.time())
    yield made
    await made.close()


def entry(name="a.png", size=3, **facts):
    url = facts.pop("url", None)
    kept = facts.pop("kept", False)
    told = {"node_id": "1", "title": "t", "kind": "image", "filename": name, **facts}
    return OutputRecord(name, "image/png", size, "00", told, url, kept)


@pytest.mark.parametrize(
    "error",
    [
        ExecutionFailed("no", node_id="5", class_type="K", node_title="k", log_tail=["l"]),
        InvalidWorkflow("bad", details=[{"a": 1}], hint="h", location="prompt.1"),
        EngineDied("gone"),
        UploadFailed("no", retryable=False, blame="caller"),
        BootFailed("x"),
    ],
)
def test_an_error_is_told_again_as_it_was(error):
    """Every field of its envelope, and its status."""
    again = StoredError(error.envelope())
    assert again.envelope() == error.envelope()
    assert (again.status, again.code, again.blame) == (error.status, error.code, error.blame)
    kept = again.detached()
    assert kept.envelope() == error.envelope()


def test_an_envelope_with_gaps_is_an_error_all_the_same():
    """Of another version, or of a hand."""
    again = StoredError({})
    assert (again.status, again.code, again.blame) == (500, "internal_error", "platform")


async def test_a_failed_job_has_its_error_for_an_answer(state, tmp_path):
    """Nothing is brought anywhere."""
    record = replace(RECORD, phase="failed", error=EngineDied("gone").envelope())
    with pytest.raises(StoredError, match="gone"):
        await stored_answer(record, HEAD, state, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


async def test_outputs_come_back_byte_for_byte(state, tmp_path):
    """Files, and texts with whatever line ends; closing the answer removes the copies."""
    text = "a\r\nb\rc\u2028d\n" * 2000
    (tmp_path / "a.png").write_bytes(b"abc")
    (tmp_path / "t.txt").write_bytes(text.encode())
    for name in ("a.png", "t.txt"):
        assert await state.kept.put(RECORD.uid, name, tmp_path / name, time.time())
    record = replace(
        RECORD,
        outputs=(
            entry("a.png", kept=True, width=8, height=9),
            entry("t.txt", len(text.encode()), kept=True, kind="text", text=text[:4096]),
            entry("s.txt", 5, kind="text", text="short"),
            entry("u.png", 7, url="https://a.test/u.png", uploads=[{"target": "s3"}]),
        ),
    )
    scratch = tmp_path / "scratch"
    async with await stored_answer(record, HEAD, state, scratch) as answer:
        picture, long, short, uploaded = answer.outputs
        assert (picture.path.read_bytes(), picture.width, picture.height) == (b"abc", 8, 9)
        assert (long.text, long.path) == (text, None)
        assert (short.text, uploaded.url) == ("short", "https://a.test/u.png")
        assert (uploaded.path, uploaded.uploads) == (None, ({"target": "s3"},))
        told = await answer.json()
        assert (told["images"], told["replayed"]) == (["YWJj", "https://a.test/u.png"], True)
        assert told["stats"] == {"total_time": 5}
    assert list(scratch.iterdir()) == []


async def test_who_reads_slowly_takes_no_room_on_the_disk(state, tmp_path):
    """Many at once would have a copy each."""
    (tmp_path / "a.png").write_bytes(b"abc")
    await state.kept.put(RECORD.uid, "a.png", tmp_path / "a.png", time.time())
    record = replace(RECORD, outputs=(entry(kept=True),))

    answer = await stored_answer(record, HEAD, state, tmp_path / "scratch")

    assert answer.files[0].path.stat().st_ino == (tmp_path / "a.png").stat().st_ino
    await answer.close()
    assert (tmp_path / "a.png").read_bytes() == b"abc"


async def test_uploaded_outputs_are_files_again_where_files_are_wanted(state, tmp_path):
    """For a re-delivery: they must be kept as well."""
    (tmp_path / "a.png").write_bytes(b"abc")
    await state.kept.put(RECORD.uid, "a.png", tmp_path / "a.png", time.time())
    kept = replace(RECORD, outputs=(entry(kept=True, url="https://a.test/a.png"),))
    (output,) = await stored_outputs(kept, state, tmp_path / "here", files=True)
    assert output.path.read_bytes() == b"abc"
    gone = replace(RECORD, outputs=(entry(url="https://a.test/a.png"),))
    with pytest.raises(ResultGone):
        await stored_outputs(gone, state, tmp_path / "here", files=True)


@pytest.mark.parametrize("with_state", [True, False])
async def test_what_is_not_kept_is_gone(state, tmp_path, with_state):
    """It is said which output, and nothing is left of the others."""
    place = state if with_state else None
    for one in (
        entry("a b.png"),
        entry("a b.png", kept=True),
        entry("a b.png", 5000, kind="text", text="x" * 4096),
    ):
        record = replace(RECORD, outputs=(entry("s.txt", 1, kind="text", text="x"), one))
        with pytest.raises(ResultGone) as caught:
            await stored_answer(record, HEAD, place, tmp_path / "scratch")
        assert caught.value.details == {"filename": "a b.png", "status": "succeeded"}
    assert list((tmp_path / "scratch").iterdir()) == []
