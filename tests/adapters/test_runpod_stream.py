"""A job as a stream of items; with the real SDK in tests/platforms/test_runpod_worker.py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

from worker import GRAPH, until, worker

from adapters.runpod_result import CHUNK_BYTES
from adapters.runpod_stream import JobStream
from adapters.runpod_work import Work
from handler.engine.command import Folders
from handler.engine.events import NodeOutput, NodeStarted, Started, Succeeded
from handler.engine.memory import PIXEL, write_picture
from handler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from handler.engine.base import EnginePrompt
    from handler.engine.events import EngineEvent
    from handler.engine.files import EngineFiles
    from handler.engine.memory import MemoryEngine


class Place:
    """A site: only its folders are looked at."""

    def __init__(self, home: Path, *, shared: bool = True) -> None:
        parts = ("input", "output", "temp", "models")
        self.folders = Folders(*(home / part for part in parts), shared=shared)


@contextlib.asynccontextmanager
async def streaming(
    home: Path, *, shared: bool = True, **given: Any
) -> AsyncIterator[tuple[Work, MemoryEngine, JobStream]]:
    async with worker(home) as (handler, memory):
        work = Work(handler, Settings(runpod_stream=True))
        await work.boot()
        job = {"id": "j-1", "input": given or {"prompt": GRAPH}}
        place: Any = Place(home, shared=shared)
        stream = JobStream(work, place, job, lambda _: None)
        try:
            yield work, memory, stream
        finally:
            await stream.close()
            await work.close(0)


async def items(stream: JobStream) -> list[dict[str, Any]]:
    found = []
    while (item := await stream.next()) is not None:
        found.append(item)
    return found


async def test_outputs_come_before_the_answer(tmp_path: Path) -> None:
    """Each with its bytes; the answer repeats none of them."""
    async with streaming(tmp_path) as (_, _, stream):
        output, result = await items(stream)

    assert base64.b64decode(output["data"]) == PIXEL
    assert (output["type"], output["node_id"], output["bytes"]) == ("output", "2", len(PIXEL))
    assert (result["type"], result["id"]) == ("result", "j-1")
    assert result["outputs"][0]["filename"] == output["filename"]
    assert "images" not in result


async def test_an_output_comes_when_its_node_has_finished(tmp_path: Path) -> None:
    """While the rest of the graph still runs."""
    go = asyncio.Event()

    async def script(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
        yield Started(1_000)
        prefix = prompt.graph["2"]["inputs"]["filename_prefix"]
        yield NodeOutput("2", {"images": [write_picture(files, prefix)]})
        yield NodeStarted("1")
        await go.wait()
        yield Succeeded(2_000)

    async with streaming(tmp_path) as (_, memory, stream):
        memory.script = script
        first = await asyncio.wait_for(stream.next(), 5)
        assert first is not None
        assert first["type"] == "output"
        go.set()

        assert [item["type"] for item in await items(stream)] == ["result"]


async def test_files_out_of_reach_come_with_the_answer(tmp_path: Path) -> None:
    """As they do where they are converted first."""
    async with streaming(tmp_path, shared=False) as (_, _, stream):
        output, result = await items(stream)
    async with streaming(tmp_path / "2", prompt=GRAPH, convert_output={"format": "webp"}) as (
        _,
        _,
        stream,
    ):
        converted, _ = await items(stream)

    assert base64.b64decode(output["data"]) == PIXEL
    assert result["type"] == "result"
    assert converted["mime"] == "image/webp"
    assert base64.b64decode(converted["data"])[:4] == b"RIFF"


async def test_what_no_item_can_hold_is_told_without_its_bytes(tmp_path: Path) -> None:
    """And how to have it all the same."""

    async def script(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
        yield Started(1_000)
        prefix = prompt.graph["2"]["inputs"]["filename_prefix"]
        large = PIXEL + bytes(CHUNK_BYTES)
        yield NodeOutput("2", {"images": [write_picture(files, prefix, large)]})
        yield NodeOutput("2", {"text": ["x" * CHUNK_BYTES]})
        yield Succeeded(2_000)

    async with streaming(tmp_path) as (_, memory, stream):
        memory.script = script
        picture, text, result = await items(stream)

    assert "data" not in picture
    assert "storage" in picture["omitted"]
    assert text["cut"] is True
    assert len(text["text"]) < CHUNK_BYTES
    assert result == {"type": "result", "id": "j-1", "stats": result["stats"]}


async def test_a_failure_is_an_item_and_a_text(tmp_path: Path) -> None:
    """The SDK ends with the text."""
    async with streaming(tmp_path, prompt={"1": {"class_type": "No", "inputs": {}}}) as (
        _,
        _,
        stream,
    ):
        envelope, last = await items(stream)

    assert (envelope["type"], envelope["code"]) == ("failed", "invalid_workflow")
    assert last == {"error": envelope["message"], "refresh_worker": False}


async def test_closing_it_ends_the_run(tmp_path: Path) -> None:
    """As the platform's stop does."""

    async def stuck(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
        yield Started(1_000)
        await asyncio.Event().wait()

    async with streaming(tmp_path) as (work, memory, stream):
        memory.script = stuck
        await until(lambda: memory.prompts)
        await stream.close()
        await until(lambda: memory.cancelled)

        assert work.handler.find("j-1").phase.value == "cancelled"  # type: ignore[union-attr]
        assert await stream.next() is None
