"""The stand-in engine's nodes: what they declare in /object_info, and what they write.

An IMAGE that travels between nodes is the bytes of a PNG: nothing here computes, so what a
bench measures is the way to the engine and back.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
Graph = dict[str, dict[str, Any]]

_SIZE = ["INT", {"default": 64, "min": 1, "max": 16384, "step": 1}]
_IMAGES = ["IMAGE", {}]
_PREFIX = ["STRING", {"default": "bench"}]
_INPUTS: dict[str, dict[str, list[Any]]] = {
    "BenchNoise": {
        "width": _SIZE,
        "height": _SIZE,
        "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
    },
    "BenchSleep": {"images": _IMAGES, "ms": ["INT", {"default": 0, "min": 0, "max": 600_000}]},
    "BenchFail": {"images": _IMAGES, "message": ["STRING", {"default": "failed as asked"}]},
    "BenchShrink": {"images": _IMAGES},
    "BenchFile": {
        "size_mb": ["INT", {"default": 1, "min": 1, "max": 4096}],
        "filename_prefix": _PREFIX,
    },
    "SaveImage": {"images": _IMAGES, "filename_prefix": _PREFIX},
    "LoadImage": {"image": [[], {"image_upload": True}]},
    "CheckpointLoaderSimple": {"ckpt_name": [[], {}]},
}
_OUTPUTS = {
    "BenchFile": [],
    "SaveImage": [],
    "LoadImage": ["IMAGE", "MASK"],
    "CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"],
}
NODES = frozenset(_INPUTS)
OUTPUT_NODES = frozenset({"BenchFile", "SaveImage"})


class NodeFailedError(Exception):
    """A node that cannot run; becomes `execution_error`."""

    def __init__(self, node_id: str, class_type: str, message: str) -> None:
        super().__init__(message)
        self.node_id, self.class_type = node_id, class_type


@dataclass(slots=True)
class Folders:
    """Where the engine reads and writes, and the numbers it gave to files so far."""

    input: Path
    output: Path
    temp: Path
    models: Path
    counters: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> Path | None:
        """The folder that a file's `type` names, None for an unknown type."""
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def new_file(self, prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
        """The next free name under a prefix, and how the engine announces it."""
        folder, stem = os.path.split(os.path.normpath(prefix))
        target = (self.output / folder).resolve()
        if not target.is_relative_to(self.output):
            raise ValueError("the prefix leaves the output folder")
        target.mkdir(parents=True, exist_ok=True)
        count = self.counters[prefix] = self.counters.get(prefix, 0) + 1
        name = f"{stem}_{count:05}_{suffix}"
        return target / name, {"filename": name, "subfolder": folder, "type": "output"}


def listed(folder: Path) -> list[str]:
    """Names of a folder's files, sorted; a missing folder has none."""
    return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def describe(name: str, folders: Folders) -> dict[str, Any]:
    """One entry of /object_info."""
    required = dict(_INPUTS[name])
    if name == "LoadImage":
        required["image"] = [listed(folders.input), {"image_upload": True}]
    if name == "CheckpointLoaderSimple":
        required["ckpt_name"] = [listed(folders.models / "checkpoints"), {}]
    outputs = _OUTPUTS.get(name, ["IMAGE"])
    return {
        "input": {"required": required},
        "input_order": {"required": list(required)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": "bench",
        "output_node": name in OUTPUT_NODES,
    }


@functools.lru_cache(maxsize=8)
def noise_png(width: int, height: int) -> bytes:
    """A PNG of noise: made once per size, about 3 bytes a pixel, not compressed."""

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    rows = b"".join(b"\0" + os.urandom(width * 3) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def file_block(size_mb: int) -> bytes:
    """The MiB that BenchFile repeats: the same for a size, so that a client can check it."""
    return random.Random(size_mb).randbytes(MIB)


def _write_blocks(path: Path, size_mb: int) -> None:
    block = file_block(size_mb)
    with path.open("wb") as sink:
        for _ in range(size_mb):
            sink.write(block)


def execution_order(graph: Graph, outputs: list[str]) -> list[str]:
    """Node ids as they run: what the outputs need first, nothing that no output needs."""
    order: list[str] = []

    def visit(node_id: str) -> None:
        if node_id in order:
            return
        for value in graph[node_id].get("inputs", {}).values():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph:
                visit(str(value[0]))
        order.append(node_id)

    for output in outputs:
        visit(output)
    return order


async def perform(
    node_id: str, node: dict[str, Any], values: dict[str, bytes], folders: Folders
) -> dict[str, Any] | None:
    """Run one node: its value goes to `values`.

    Returns:
        What `executed` tells, None for a node without files.

    Raises:
        NodeFailedError: BenchFail was asked to, or a name leaves its folder.
    """
    kind, inputs = node["class_type"], node.get("inputs", {})
    images = values.get(str(inputs["images"][0]), b"") if "images" in inputs else b""
    if kind == "BenchSleep":
        await asyncio.sleep(inputs["ms"] / 1000)
    elif kind == "BenchFail":
        raise NodeFailedError(node_id, kind, inputs.get("message", "failed as asked"))
    elif kind == "BenchNoise":
        images = noise_png(inputs["width"], inputs["height"])
    elif kind == "BenchShrink":
        images = noise_png(64, 64)
    elif kind == "LoadImage":
        images = await asyncio.to_thread((folders.input / inputs["image"]).read_bytes)
    values[node_id] = images
    if kind not in OUTPUT_NODES:
        return None
    try:
        path, announced = folders.new_file(
            inputs["filename_prefix"], ".bin" if kind == "BenchFile" else ".png"
        )
    except ValueError as error:
        raise NodeFailedError(node_id, kind, str(error)) from error
    if kind == "BenchFile":
        await asyncio.to_thread(_write_blocks, path, inputs["size_mb"])
    else:
        path.write_bytes(images)
    return {"images": [announced]}
