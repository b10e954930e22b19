"""Collected -> Collected: images in the format that was asked for."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from handler.media import convert as media
from handler.pipeline.collect import read_output

if TYPE_CHECKING:
    from handler.pipeline.stages import Collected, Parts, Received
    from handler.pipeline.uploads import Uploads
    from handler.records import Output


async def convert(
    collected: Collected, received: Received, parts: Parts, uploads: Uploads | None = None
) -> Collected:
    """Convert every image; what is no image stays as it is.

    Args:
        uploads: have converted some images already.

    Raises:
        ConversionFailed: an image cannot be had in that format; never the original in its place.
    """
    if received.request.convert_output is None and uploads is None:
        return collected
    conversion = Conversion(received, parts)

    async def one(output: Output) -> Output:
        done = await uploads.converted(output) if uploads else None
        return done or await conversion.of(output)

    outputs = await asyncio.gather(*map(one, collected.outputs))
    return replace(collected, outputs=list(outputs))


class Conversion:
    """Converts the images of one job, each into a folder of its own: names may be equal."""

    def __init__(self, received: Received, parts: Parts) -> None:
        self._wanted = received.request.convert_output
        self._folder = parts.scratch / received.job.uid / "converted"
        self._converters = parts.converters

    async def of(self, output: Output) -> Output:
        """Give an image as it was asked for, and what is no image as it is.

        Raises:
            ConversionFailed: it cannot be had in that format.
        """
        wanted = self._wanted
        if wanted is None or output.path is None or output.kind != "image":
            return output
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{PurePosixPath(output.filename).stem}.{wanted.format}"
        target = Path(tempfile.mkdtemp(dir=self._folder)) / name
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._converters, media.convert, output.path, target, wanted)
        item = {"filename": name, "type": "temp" if output.temp else "output"}
        made = await read_output(target, output.node_id, {}, item)
        return replace(made, title=output.title)
