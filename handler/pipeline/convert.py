"""Collected -> Collected: images in the format that was asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from handler.media import convert as media
from handler.pipeline.collect import read_output

if TYPE_CHECKING:
    from handler.pipeline.stages import Collected, Parts, Received
    from handler.records import Output


async def convert(collected: Collected, received: Received, parts: Parts) -> Collected:
    """Convert every image; what is no image stays as it is.

    Raises:
        ConversionFailed: an image cannot be had in that format; never the original in its place.
    """
    wanted = received.request.convert_output
    if wanted is None:
        return collected
    folder = parts.scratch / received.job.uid / "converted"
    folder.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()

    async def one(index: int, output: Output) -> Output:
        if output.path is None or output.kind != "image":
            return output
        name = f"{PurePosixPath(output.filename).stem}.{wanted.format}"
        target = folder / f"{index}" / name
        target.parent.mkdir()
        source = Path(output.path)
        await loop.run_in_executor(parts.converters, media.convert, source, target, wanted)
        item = {"filename": name, "type": "temp" if output.temp else "output"}
        return await read_output(target, output.node_id, collected.ran.graph, item)

    outputs = await asyncio.gather(*(one(i, o) for i, o in enumerate(collected.outputs)))
    return replace(collected, outputs=list(outputs))
