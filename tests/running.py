"""Graphs through the engine in memory: what the service does of it, and scripts of runs."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from worker import GRAPH

from handler.engine.events import NodeOutput, NodeStarted, Started, Succeeded
from handler.engine.memory import PIXEL, save_pictures, write_picture
from handler.pipeline.execute import Recorder, engine_prompt, judge_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from handler.engine.base import EnginePrompt
    from handler.engine.events import End, EngineEvent
    from handler.engine.files import EngineFiles
    from handler.engine.memory import Script
    from handler.job import Job
    from handler.pipeline.run import Execute
    from handler.pipeline.stages import Parts, Prepared, Ran

TWO: dict[str, Any] = {
    **GRAPH,
    "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "y"}},
}
"""A graph with two outputs."""


class Gate:
    """A script whose runs begin and then wait until they are let on."""

    def __init__(self) -> None:
        self.begun: list[EnginePrompt] = []
        self.open = asyncio.Event()

    async def __call__(
        self, prompt: EnginePrompt, files: EngineFiles
    ) -> AsyncIterator[EngineEvent]:
        self.begun.append(prompt)
        yield Started(1)
        await self.open.wait()
        async for event in save_pictures(prompt, files):
            if not isinstance(event, Started):
                yield event


def executing(parts: Parts, job: Job) -> Execute:
    """Make what runs a graph in the engine."""

    async def execute(prepared: Prepared) -> Ran:
        recorder = Recorder(prepared, job, parts)
        end = await parts.engine.run(engine_prompt(prepared, "p", parts), recorder)
        return judge_end(end, recorder.ran)

    return execute


def playing(
    *,
    gate: asyncio.Event | None = None,
    size: int = 0,
    texts: Sequence[str] = (),
    end: End | None = None,
) -> Script:
    """Make a script: each node with a prefix saves a picture.

    Args:
        gate: waited for after the first output.
        size: bytes of noise in place of a picture.
        texts: told of each output as well.
        end: the run's, in place of a success.
    """

    async def script(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
        yield Started(1_000)
        outputs = 0
        for node_id, node in prompt.graph.items():
            yield NodeStarted(node_id)
            prefix = node.get("inputs", {}).get("filename_prefix")
            if not isinstance(prefix, str):
                continue
            data = random.Random(node_id).randbytes(size) if size else PIXEL
            told: dict[str, Any] = {"images": [write_picture(files, prefix, data)]}
            yield NodeOutput(node_id, told | ({"text": list(texts)} if texts else {}))
            outputs += 1
            if gate is not None and outputs == 1:
                await gate.wait()
        yield end or Succeeded(2_000)

    return script
