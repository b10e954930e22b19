"""Ran -> Collected: everything the run produced, by shape and not by key."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.graph.rewrite import node_order, node_title
from handler.media.describe import describe
from handler.pipeline.stages import Collected, Parts, Ran, Received
from handler.records import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.records import Graph

SMALL_BYTES = 1 << 18


async def collect(ran: Ran, received: Received, parts: Parts) -> Collected:
    """Read and describe all outputs in the order of the graph's nodes.

    Any object with a `filename` under any key is a file, any list of texts is text; files that
    lie in the job's folder unannounced are taken as well, from nodes that announced nothing.

    Raises:
        EngineRefused: a file was announced and is not there. Never a success with less.
    """
    uid, graph = received.job.uid, ran.graph
    own = parts.engine.files.outputs_of(uid)
    outputs: list[Output] = []
    strays: list[Path] = []
    seen: set[Path] = set()
    for node_id in (n for n in node_order(graph) if n in ran.told):
        for item in _files(ran.told[node_id], temp=received.request.include_temp):
            path = await parts.engine.files.open(item, parts.scratch / uid / "outputs")
            seen.add(path)
            if own is None or not path.is_relative_to(own):
                strays.append(path)
            outputs.append(await read_output(path, node_id, graph, item))
        outputs += [_text(node_id, graph, i, t) for i, t in enumerate(_texts(ran.told[node_id]))]
    for node_id, path in ran.frames:
        outputs.append(await read_output(path, node_id, graph, {"filename": path.name}))
    outputs += await _unannounced(ran, own, seen)
    rank = {node_id: place for place, node_id in enumerate(node_order(graph))}
    outputs.sort(key=lambda output: rank.get(output.node_id, len(rank)))
    strays += _hidden_temp(ran, parts)
    return Collected(ran, outputs, tuple(strays))


def _entries(told: dict[str, Any]) -> Iterator[Any]:
    for value in told.values():
        if isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, dict):
            yield value


def _files(told: dict[str, Any], *, temp: bool) -> Iterator[dict[str, Any]]:
    for entry in _entries(told):
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
            if entry.get("type") == "input" or (entry.get("type") == "temp" and not temp):
                continue
            yield entry


def _texts(told: dict[str, Any]) -> Iterator[str]:
    for value in told.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from (text for text in value if isinstance(text, str))


def _text(node_id: str, graph: Graph, index: int, text: str) -> Output:
    # ComfyUI's JSON may hold lone surrogates, which no UTF-8 has.
    raw = text.encode(errors="replace")
    return Output(
        node_id=node_id,
        title=node_title(graph, node_id),
        kind="text",
        mime="text/plain",
        filename=f"{node_id}_{index}.txt",
        bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        text=raw.decode(),
    )


async def read_output(path: Path, node_id: str, graph: Graph, item: dict[str, Any]) -> Output:
    """Describe a file; large ones are hashed in a thread."""
    size = path.stat().st_size
    if size > SMALL_BYTES:
        digest = await asyncio.to_thread(_sha256, path)
    else:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    filename = PurePosixPath(str(item["filename"])).name
    info = describe(path, filename)
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _unannounced(ran: Ran, own: Path | None, seen: set[Path]) -> list[Output]:
    """Take files that a node wrote without a word, for nodes that announced no file at all."""
    if own is None or not own.is_dir():
        return []
    prefixes = {n: _prefix(ran.graph, n) for n in ran.output_nodes}
    announced = {n for n, told in ran.told.items() if any(_files(told, temp=True))}
    found = []
    for path in sorted(p.resolve() for p in own.rglob("*") if p.is_file()):
        if path in seen:
            continue
        name = path.relative_to(own.resolve().parent).as_posix()
        owner = next((n for n, p in prefixes.items() if p and name.startswith(p)), "")
        if owner not in announced:
            found.append(await read_output(path, owner, ran.graph, {"filename": path.name}))
    return found


def _prefix(graph: Graph, node_id: str) -> str:
    value = graph[node_id].get("inputs", {}).get("filename_prefix")
    return value if isinstance(value, str) else ""


def _hidden_temp(ran: Ran, parts: Parts) -> list[Path]:
    """Name the previews that nobody asked for: they would fill the disk one job at a time."""
    if not parts.engine.files.shared:
        return []
    temp = (i for told in ran.told.values() for i in _files(told, temp=True) if _is_temp(i))
    return [path for item in temp if (path := parts.engine.files.locate(item)) is not None]


def _is_temp(item: dict[str, Any]) -> bool:
    return item.get("type") == "temp"
