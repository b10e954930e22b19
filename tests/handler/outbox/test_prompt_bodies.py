"""Bodies of webhooks' posts."""

from __future__ import annotations

import base64
import json
import re

import pytest

from handler.outbox.prompt_bodies import (
    IN_MEMORY_BYTES,
    complete_blocks,
    failed_body,
    gathered,
    output_blocks,
    timestamp,
)
from handler.records import Output
from handler.wire import Answer

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def an_answer(*outputs, **head):
    return Answer("job-1", {"id": "job-1", **head}, list(outputs), {"stats": {"total_time": 1.5}})


def of_file(path, data, **facts):
    path.write_bytes(data)
    size = len(data)
    return Output("2", "t", "image", "image/png", path.name, size, "00", path=path, **facts)


async def joined(blocks):
    return json.loads(b"".join([block async for block in blocks]))


@pytest.mark.parametrize("size", [0, 1, 1 << 18, 3 << 18, (3 << 19) + 1])
@pytest.mark.parametrize("extra", [{}, {"webhook_extra": [1, None]}])
async def test_result_is_the_answer_with_what_is_the_posts(tmp_path, size, extra):
    """However many blocks it comes in."""
    answer = an_answer(of_file(tmp_path / "ä b.png", b"x" * size), prompt={"1": {}})
    told = await joined(complete_blocks(answer, extra))

    assert told.pop("type") == "prompt.complete"
    assert re.fullmatch(TIME, told.pop("timestamp"))
    assert told == {**(await answer.json()), **extra}


async def test_nothing_is_there_twice():
    """What the answer repeats of its request is not told again."""
    answer = an_answer(webhook_extra=1)
    raw = b"".join([block async for block in complete_blocks(answer, {"webhook_extra": 1})])

    assert raw.count(b"webhook_extra") == 1


async def test_one_output_is_told_by_its_bytes_its_url_or_its_text(tmp_path):
    """Each with what comfyui-api sends along."""
    data = bytes(range(256)) * 4096
    file = of_file(tmp_path / "a.png", data)
    stored = of_file(tmp_path / "b.png", b"b", url='https://e.org/b.png?a=1&b="2"')
    text = Output("3", "t", "text", "text/plain", "3.txt", 3, "00", text="ü!")
    answer = an_answer(file, stored, text, prompt={"1": {}})
    told = [
        await joined(output_blocks(answer, one, {"webhook_extra": 0})) for one in answer.outputs
    ]

    assert told[0] == {
        "event": "output.complete",
        "image": base64.b64encode(data).decode(),
        "id": "job-1",
        "filename": "a.png",
        "prompt": {"1": {}},
        "stats": {"total_time": 1.5},
        "webhook_extra": 0,
    }
    assert told[1]["image"] == stored.url
    assert base64.b64decode(told[2]["image"]).decode() == "ü!"
    assert [one["filename"] for one in told] == ["a.png", "b.png", "3.txt"]


def test_failure_of_the_newer_form_has_a_kind_and_a_time():
    """The older one has not."""
    told = json.loads(failed_body({"id": "a"}, "prompt.failed"))
    assert list(told) == ["type", "timestamp", "id"]
    assert re.fullmatch(TIME, told["timestamp"])
    assert failed_body({"event": "prompt.failed"}) == b'{"event":"prompt.failed"}'
    assert re.fullmatch(TIME, timestamp())


def test_whatever_python_reads_as_json_is_written():
    """A payload from a platform may have numbers and texts that orjson has not."""
    told = {"big": 1 << 70, "text": "a\ud800", "other": {1: object}}

    assert json.loads(failed_body(told))["big"] == 1 << 70


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 3 * IN_MEMORY_BYTES])
async def test_large_body_is_a_file_for_a_while(tmp_path, size):
    """A small one never is."""

    async def blocks():
        for start in range(0, size, 100_000):
            yield b"x" * min(100_000, size - start)

    async with gathered(blocks(), tmp_path) as body:
        if size <= IN_MEMORY_BYTES:
            assert body == b"x" * size
            assert list(tmp_path.iterdir()) == []
        else:
            assert body.read_bytes() == b"x" * size
            assert body.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []


async def test_body_that_ends_in_a_fault_leaves_no_file(tmp_path):
    """Whether it cannot be read or cannot be written."""

    async def blocks():
        for _ in range(3):
            yield b"x" * IN_MEMORY_BYTES
        raise OSError("shorter than it was")

    with pytest.raises(OSError, match="shorter"):
        async with gathered(blocks(), tmp_path):
            raise AssertionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        async with gathered(blocks(), tmp_path / "none"):
            raise AssertionError
