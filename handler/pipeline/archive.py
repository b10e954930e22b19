"""All outputs of a job as one ZIP file."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from handler.errors import InternalFault
from handler.graph.rewrite import safe_leaf
from handler.records import Output
from handler.state.archive import Entry, zip_blocks
from handler.state.kept import output_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from handler.pipeline.stages import Collected, Parts, Received

MIME = "application/zip"


async def archived(collected: Collected, received: Received, parts: Parts) -> Collected:
    """Put all outputs into one file, where the request asks for it; texts as .txt files.

    A run that gave nothing has no archive.

    Raises:
        InternalFault: it cannot be written.
    """
    if received.request.archive is None or not collected.outputs:
        return collected
    name = f"{safe_leaf(received.job.id)}.zip"
    path = parts.scratch / received.job.uid / "archive" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    left = threading.Event()
    try:
        size, digest = await asyncio.to_thread(_write, path, _entries(collected.outputs), left)
    except asyncio.CancelledError:
        left.set()
        raise
    except OSError as error:
        raise InternalFault(
            f"the archive could not be written: {error}",
            hint="is there space left in WORK_DIR?",
            retryable=True,
        ) from error
    whole = Output(
        node_id="",
        title="",
        kind="file",
        mime=MIME,
        filename=name,
        bytes=size,
        sha256=digest,
        path=path,
    )
    return replace(collected, outputs=[whole])


def _entries(outputs: Sequence[Output]) -> list[Entry]:
    now, taken = time.time(), set[str]()
    entries = []
    for output in outputs:
        name = output_name(output.filename, taken)
        taken.add(name)
        entries.append(Entry(name, output.bytes, now, partial(_opened, output)))
    return entries


def _opened(output: Output) -> BinaryIO:
    if output.path is None:
        return io.BytesIO((output.text or "").encode())
    return output.path.open("rb")


def _write(path: Path, entries: Sequence[Entry], left: threading.Event) -> tuple[int, str]:
    """Write the archive; give its size and its SHA-256. Blocking, until `left` is set."""
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as target:
        for block in zip_blocks(entries):
            if left.is_set():
                break
            target.write(block)
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
