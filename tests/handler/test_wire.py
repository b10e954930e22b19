"""The answer as JSON, made block by block."""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import hashlib
import json

import pytest

from handler.records import Output
from handler.wire import (
    BLOCK_BYTES,
    SMALL_BYTES,
    Answer,
    base64_blocks,
    base64_length,
)

HEAD = {"id": "j", "prompt": {"1": {"class_type": "Ünïcode", "inputs": {"seed": 2**64 - 1}}}}
TAIL = {"stats": {"total_time": 1.5}, "engine": {"kind": "memory", "version": None}}
EDGES = [0, 1, 2, 3, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1]
EDGES += [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 2]


def of_file(path, size, seed=1):
    data = hashlib.shake_128(bytes([seed])).digest(size)
    path.write_bytes(data)
    return Output("2", "t", "image", "image/png", path.name, size, "00", path=path)


def of_text(text):
    return Output("3", "t", "text", "text/plain", "3.txt", len(text), "00", text=text)


def plain(answer):
    """The same answer, made in the plainest way."""
    files = answer.files
    return {
        **answer.head,
        "images": [base64.b64encode(f.path.read_bytes()).decode() for f in files],
        "filenames": [f.filename for f in files],
        "outputs": [o.public() for o in answer.outputs],
        **answer.tail,
    }


async def joined(answer):
    return b"".join([block async for block in answer.json_blocks()])


@pytest.mark.parametrize("size", EDGES)
async def test_blocks_are_the_plain_json_at_every_border(tmp_path, size):
    """Base64 in blocks joins to what one call gives, and the length is known before."""
    answer = Answer("j", HEAD, [of_file(tmp_path / "a.png", size)], TAIL)
    raw = await joined(answer)

    assert json.loads(raw) == plain(answer)
    assert len(raw) == answer.content_length()
    assert base64_length(size) == len(base64.b64encode(b"x" * size))


@pytest.mark.parametrize(
    "sizes",
    [[], [5], [5, 0], [SMALL_BYTES + 1, 5], [5, SMALL_BYTES + 1, 7], [BLOCK_BYTES + 1] * 2],
)
async def test_small_and_large_files_mix_with_texts(tmp_path, sizes):
    """Files become images in their order; texts are outputs only."""
    outputs = [of_text("said")]
    outputs += [of_file(tmp_path / f"{i}.png", size, i) for i, size in enumerate(sizes)]
    answer = Answer("j", HEAD, outputs, TAIL)
    raw = await joined(answer)

    assert json.loads(raw) == plain(answer) == await answer.json()
    assert len(raw) == answer.content_length()
    assert json.loads(raw)["outputs"][0]["text"] == "said"


@pytest.mark.parametrize("url", ["s3://b/a b猫.png", 'https://h/"x"?a=1&b=2', "/mnt/x\\y"])
async def test_what_is_stored_elsewhere_is_its_url(tmp_path, url):
    """In place of its bytes, among those that are inline."""
    files = [of_file(tmp_path / f"{n}.png", size, n) for n, size in enumerate((3, SMALL_BYTES * 2))]
    uploads = ({"target": "s3", "url": url},)
    stored = [dataclasses.replace(file, url=url, uploads=uploads) for file in files]
    answer = Answer("j", HEAD, [stored[0], files[1], of_text("said"), stored[1], files[0]], TAIL)
    raw = await joined(answer)
    body = json.loads(raw)

    inline = [base64.b64encode(file.path.read_bytes()).decode() for file in files]
    assert body["images"] == [url, inline[1], url, inline[0]]
    assert body["filenames"] == ["0.png", "1.png", "1.png", "0.png"]
    assert body["outputs"][0]["url"] == url
    assert body["outputs"][0]["uploads"] == list(uploads)
    assert len(raw) == answer.content_length()


async def test_what_is_elsewhere_alone_is_its_url_as_well(tmp_path):
    """An answer that is given again: the file is not here any more; a text still is."""
    url = "s3://bucket/a.png"
    stored = dataclasses.replace(of_file(tmp_path / "a.png", 3), path=None, url=url)
    answer = Answer("j", HEAD, [stored, of_text("words")], TAIL)
    raw = await joined(answer)

    assert len(raw) == answer.content_length()
    assert json.loads(raw)["images"] == [url]
    assert json.loads(raw)["filenames"] == ["a.png"]


async def test_an_answer_without_a_head_is_json_as_well(tmp_path):
    """No comma goes before the first key."""
    answer = Answer("j", {}, [of_file(tmp_path / "a", 3)], {})
    assert json.loads(await joined(answer)) == plain(answer)


async def test_no_block_is_larger_than_one_block_of_base64(tmp_path):
    """A result of any size costs the memory of one block."""
    answer = Answer("j", HEAD, [of_file(tmp_path / "a", 4 * BLOCK_BYTES + 1)], TAIL)

    longest = max([len(block) async for block in answer.json_blocks()])
    assert longest <= base64_length(BLOCK_BYTES) + 1000


async def test_a_file_that_shrank_is_an_error(tmp_path):
    """A Content-Length is promised by then: a short answer must not pass for a whole one."""
    output = of_file(tmp_path / "a", BLOCK_BYTES + 10)
    output.path.write_bytes(b"short")

    with pytest.raises(OSError, match="shorter"):
        await joined(Answer("j", HEAD, [output], TAIL))


async def test_a_small_file_that_changed_is_an_error(tmp_path):
    """The same holds for files that are read at once."""
    output = of_file(tmp_path / "a", 100)
    output.path.write_bytes(b"short")

    with pytest.raises(OSError, match="shorter"):
        await joined(Answer("j", HEAD, [output], TAIL))


async def test_blocks_can_be_left_early(tmp_path):
    """A client that goes away leaves no open file behind (warnings are errors)."""
    output = of_file(tmp_path / "a", 3 * BLOCK_BYTES)
    blocks = base64_blocks(output.path, output.bytes)
    await anext(blocks)
    await blocks.aclose()


async def test_an_answer_is_closed_once():
    """Whoever closes again does no harm."""
    closed = []

    async def on_close():
        closed.append(asyncio.current_task())

    async with Answer("j", HEAD, [], TAIL, on_close) as answer:
        assert closed == []
    await answer.close()
    assert len(closed) == 1
    await Answer("j", HEAD, [], TAIL).close()


async def test_a_closed_answer_holds_nothing(tmp_path):
    """Who still has it, a record or a frame, keeps no result alive."""
    answer = Answer("j", dict(HEAD), [of_file(tmp_path / "a", 3)], dict(TAIL))
    await answer.json()
    await answer.close()

    assert (answer.head, answer.outputs, answer.tail, answer.files) == ({}, [], {}, [])
    assert b"code" not in b"".join([block async for block in answer.json_blocks()])


class Counting(collections.UserDict):
    """Counts how often it is read whole, as encoding does."""

    reads = 0

    def keys(self):
        self.reads += 1
        return super().keys()


async def test_a_large_graph_is_encoded_once(tmp_path):
    """Its length is promised first, then it is sent."""
    head = Counting(HEAD)
    answer = Answer("j", head, [of_file(tmp_path / "a", 3)], TAIL)
    length = answer.content_length()

    assert len(await joined(answer)) == length
    assert head.reads == 1
