"""Validated -> Prepared: bring the media here, name them to the nodes, lead outputs aside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from handler.errors import HandlerError, InputFailed
from handler.graph.rewrite import isolate_outputs
from handler.inputs.inline import decode_inline, looks_inline
from handler.inputs.stored import check_stored
from handler.media.sniff import matches
from handler.pipeline.media_files import MediaFiles, is_url, named_by_content
from handler.pipeline.stages import Parts, Prepared, Validated
from handler.records import JOBS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from pathlib import Path

    from handler.graph.media_inputs import MediaInput
    from handler.job import Job
    from handler.records import Graph

T = TypeVar("T")


async def fetch_inputs(
    validated: Validated, job: Job, parts: Parts, *, operator: bool = False
) -> Prepared:
    """Get every media input and put its local name into the graph.

    Args:
        operator: the graph is the operator's, whose URLs and paths may lead anywhere.

    Raises:
        InputFailed: an input cannot be had, or is not what its node loads; names node and input.
        UrlNotAllowed: the address policy refuses a URL.
    """
    graph = dict(validated.graph)
    files = MediaFiles(parts, validated.request.credentials, operator=operator)
    try:
        values = await _all(
            _resolved(item, _stem(index, item), job, parts, files)
            for index, item in enumerate(validated.media)
        )
    finally:
        await files.close()
    for item, value in zip(validated.media, values, strict=True):
        _put(graph, item, value)
    isolated, output_nodes = isolate_outputs(
        graph,
        await parts.engine.object_info(),
        folder=f"{JOBS_FOLDER}/{job.uid}",
        request_id=job.id,
        prepend=parts.settings.prepend_filenames,
    )
    return Prepared(validated.request, isolated, output_nodes)


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await all; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _put(graph: Graph, item: MediaInput, value: str) -> None:
    node = graph[item.node_id]
    graph[item.node_id] = {**node, "inputs": {**node["inputs"], item.input: value}}


async def _resolved(item: MediaInput, stem: str, job: Job, parts: Parts, files: MediaFiles) -> str:
    try:
        if item.is_directory and isinstance(item.value, list):
            return await _directory(item, stem, job, parts, files)
        path = await _one(item, str(item.value), stem, job, parts, files)
        if path is None:
            return str(item.value)
        name = await parts.engine.files.publish(path)
        return str(path) if await _by_path(item, parts) else name
    except HandlerError as error:
        raise error.at(item.location, item.node_id, item.class_type, item.title) from None


async def _directory(item: MediaInput, stem: str, job: Job, parts: Parts, files: MediaFiles) -> str:
    """Put a list of files into one folder, named so that the node sorts them as given."""
    fetches: list[Awaitable[Path | None]] = [
        _one(item, value, f"{stem}/{index:05}", job, parts, files)
        for index, value in enumerate(item.value)
    ]
    for path in await _all(fetches):
        if path is None:
            raise InputFailed("a list of files takes URLs, data URIs and base64, no stored names")
        await parts.engine.files.publish(path)
    folder = parts.engine.files.inputs_of(job.uid) / stem
    return str(folder) if await _by_path(item, parts) else f"{JOBS_FOLDER}/{job.uid}/{stem}"


async def _by_path(item: MediaInput, parts: Parts) -> bool:
    """Tell whether the node opens any path, and not names below the input folder."""
    spec = (await parts.engine.object_info()).node(item.class_type)
    declared = spec.inputs.get(item.input) if spec else None
    return bool(declared and declared.is_path and parts.engine.files.shared)


def _stem(index: int, item: MediaInput) -> str:
    """Name an input's file; the number keeps apart what the safe name does not."""
    safe = "".join(
        c if (c.isascii() and c.isalnum()) or c in "-_" else "_"
        for c in f"{item.node_id}_{item.input}"
    )
    return f"{index:03}_{safe[:80]}"


async def _one(
    item: MediaInput, value: str, stem: str, job: Job, parts: Parts, files: MediaFiles
) -> Path | None:
    """Get one file into the job's input folder; None for a name the engine has already."""
    target = parts.engine.files.inputs_of(job.uid) / stem
    if not is_url(value) and looks_inline(value):
        target.parent.mkdir(parents=True, exist_ok=True)
        target = await _off_loop(len(value), decode_inline, value, target)
        parts.metrics.took_in("inline", target.stat().st_size)
    elif files.lies_elsewhere(value):
        target = await files.fetch(value, target)
    else:
        check_stored(value, item, parts.engine.files)
        return None
    return _as_medium(item, target)


async def _off_loop(size: int, work: Any, *arguments: Any) -> Any:
    """Do small work here and large work in a thread."""
    return await asyncio.to_thread(work, *arguments) if size > 1 << 18 else work(*arguments)


def _as_medium(item: MediaInput, path: Path) -> Path:
    """Check the content against what the node loads, and have the name end as the content is.

    Raises:
        InputFailed: it is something else, a login page for example.
    """
    path, mime = named_by_content(path)
    if not matches(item.wanted, mime):
        what = mime or "of no known type"
        raise InputFailed(
            f"{item.class_type} loads {item.wanted}, but the content is {what}",
            hint="does the URL lead to the file itself, without a login or a web page around it?",
        )
    return path
