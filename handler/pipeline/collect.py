"""Ran -> Collected: everything the run produced, by shape and not by key."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.errors import InternalFault
from handler.graph.rewrite import node_order, node_title, safe_leaf
from handler.media.describe import describe
from handler.pipeline.stages import Collected, Parts, Ran, Received
from handler.pipeline.told import announced_files, is_output, texts
from handler.records import Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.pipeline.uploads import Uploads
    from handler.records import Graph, MediaInfo

SMALL_BYTES = 1 << 18


async def collect(
    ran: Ran, received: Received, parts: Parts, uploads: Uploads | None = None
) -> Collected:
    """Read and describe all outputs in the order of the graph's nodes.

    Any object with a `filename` under any key is a file, any list of texts is text; files that
    lie in the job's folder unannounced are taken as well, from nodes that announced nothing.

    Args:
        uploads: have read some files already.

    Raises:
        EngineRefused: a file was announced and is not there. Never a success with less.
        InternalFault: an image that came through the socket could not be written.
    """
    if ran.fault is not None:
        raise InternalFault(
            f"an output could not be kept: {ran.fault}",
            hint="is there space left in WORK_DIR?",
            retryable=True,
        ) from ran.fault
    uid, graph = received.job.uid, ran.graph
    own = parts.engine.files.outputs_of(uid)
    outputs: list[Output] = []
    seen: set[Path] = set()
    for node_id in (n for n in node_order(graph) if n in ran.told):
        for item in announced_files(ran.told[node_id]):
            if not is_output(item, temp=received.request.include_temp):
                continue
            output = await uploads.read(node_id, item) if uploads else None
            output = output or await open_output(item, node_id, graph, received, parts)
            assert output.path is not None
            seen.add(output.path.resolve())
            outputs.append(output)
        outputs += [_text(node_id, graph, i, t) for i, t in enumerate(texts(ran.told[node_id]))]
    for node_id, path in ran.frames:
        outputs.append(await read_output(path, node_id, graph, {"filename": path.name}))
    outputs += await _unannounced(ran, own, seen)
    rank = {node_id: place for place, node_id in enumerate(node_order(graph))}
    outputs.sort(key=lambda output: rank.get(output.node_id, len(rank)))
    return Collected(ran, outputs)


def _text(node_id: str, graph: Graph, index: int, text: str) -> Output:
    # ComfyUI's JSON may hold lone surrogates, which no UTF-8 has.
    raw = text.encode(errors="replace")
    return Output(
        node_id=node_id,
        title=node_title(graph, node_id),
        kind="text",
        mime="text/plain",
        filename=f"{safe_leaf(node_id)}_{index}.txt",
        bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        text=raw.decode(),
    )


async def open_output(
    item: Mapping[str, Any], node_id: str, graph: Graph, received: Received, parts: Parts
) -> Output:
    """Open an announced file and describe it.

    Raises:
        EngineRefused: it is not there.
    """
    path = await parts.engine.files.open(item, parts.scratch / received.job.uid / "outputs")
    return await read_output(path, node_id, graph, item)


async def read_output(path: Path, node_id: str, graph: Graph, item: Mapping[str, Any]) -> Output:
    """Describe a file; large ones are read in a thread."""
    size = path.stat().st_size
    filename = PurePosixPath(str(item["filename"])).name
    if size > SMALL_BYTES:
        digest, info = await asyncio.to_thread(_examine, path, filename)
    else:
        digest, info = _examine(path, filename)
    return Output(
        node_id=node_id,
        title=node_title(graph, node_id) if node_id in graph else "",
        kind=info.kind,
        mime=info.mime,
        filename=filename,
        bytes=size,
        sha256=digest,
        path=path,
        width=info.width,
        height=info.height,
        duration_s=info.duration_s,
        temp=item.get("type") == "temp",
    )


def _examine(path: Path, filename: str) -> tuple[str, MediaInfo]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, describe(path, filename)


async def _unannounced(ran: Ran, own: Path | None, seen: set[Path]) -> list[Output]:
    """Take files that a node wrote without a word, for nodes that announced no file at all."""
    if own is None or not own.is_dir():
        return []
    prefixes = {n: _prefix(ran.graph, n) for n in ran.output_nodes}
    announced = {n for n, told in ran.told.items() if any(announced_files(told))}
    found = []
    for path in sorted(p for p in own.rglob("*") if p.is_file() and not p.is_symlink()):
        if path.resolve() in seen:
            continue
        name = path.relative_to(own.parent.parent).as_posix()  # as the prefix begins
        owner = next((n for n, p in prefixes.items() if p and name.startswith(p)), "")
        if owner not in announced:
            found.append(await read_output(path, owner, ran.graph, {"filename": path.name}))
    return found


def _prefix(graph: Graph, node_id: str) -> str:
    value = graph[node_id].get("inputs", {}).get("filename_prefix")
    return value if isinstance(value, str) else ""
