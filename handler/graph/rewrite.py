"""The graph as it is queued: all that a job writes goes to a folder of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from handler.graph.check import is_output
from handler.graph.links import inputs_of, node_title, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.graph.object_info import InputSpec, ObjectInfo
    from handler.records import Graph

__all__ = ["RUN_INPUT", "isolate_outputs", "node_order", "node_title", "output_prefix", "safe_leaf"]

RUN_INPUT = "_comfyfn_run"
"""An input that no class declares: the engine drops it, but its cache key has it."""

MAX_LEAF_CHARS = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
# `%date:yyyy/MM/dd%` and `%KSampler.seed%`: slashes inside do not end the folder part.
_TOKEN = re.compile(r"%[A-Za-z_][^%]*%")


def isolate_outputs(
    graph: Mapping[str, Any],
    info: ObjectInfo,
    *,
    folder: str,
    request_id: str,
    prepend: bool = True,
) -> tuple[Graph, list[str]]:
    """Send what a graph writes to one folder, and keep the engine's cache from answering.

    Every `filename_prefix` becomes `<folder>/<id>_<prefix>`, with the class's default in place of
    one that is linked or missing; an output node that takes none gets
    the folder as an undeclared input, since a cached result would name an older job's file.

    Args:
        graph: left as it is; only nodes that change are copied.
        info: the engine's classes.
        folder: below the engine's output folder, unique to the run.
        request_id: the caller's id, any text.
        prepend: keep the old prefix behind the id; without, the id takes its place.

    Returns:
        The graph to queue, and the ids of its output nodes in key order. Nodes with a false
        `save_output` are not among them.
    """
    isolated: Graph = dict(graph)
    outputs: list[str] = []
    for node_id, node in graph.items():
        inputs = inputs_of(node)
        spec = info.node(node.get("class_type")) if isinstance(node, dict) else None
        declared = spec.inputs.get("filename_prefix") if spec else None
        prefix = unwrapped(inputs.get("filename_prefix"))
        # A class that declares its prefix a path reads by it.
        if (prefix or declared) and not (declared and declared.is_path):
            # A linked prefix is known only at run time: it would lead out of the job's folder.
            text = prefix if isinstance(prefix, str) and prefix else _default(declared)
            path = output_prefix(text, folder=folder, request_id=request_id, prepend=prepend)
            isolated[node_id] = _with_input(node, "filename_prefix", path)
        elif spec is not None and spec.output_node:
            isolated[node_id] = _with_input(node, RUN_INPUT, folder)
        if is_output(node, info):
            outputs.append(node_id)
    return isolated, outputs


def node_order(graph: Mapping[str, Any]) -> list[str]:
    """Give the node ids in the order in which answers list their outputs: as the caller wrote."""
    return list(graph)


def output_prefix(prefix: str, *, folder: str, request_id: str, prepend: bool = True) -> str:
    """Give the prefix below `folder`: `sub/x` -> `<folder>/sub/<id>_x`.

    Parts that lead out of the folder (`..`, a root, a drive) are dropped.
    """
    name = safe_leaf(request_id)
    if not prepend:
        return f"{folder}/{name}"
    parts = _CONTROL.sub("", prefix).replace("\\", "/").split("/")
    kept = "/".join(part for part in parts if part.strip(" .") and not _DRIVE.fullmatch(part))
    if kept and not parts[-1]:
        kept += "/"  # `sub/` is a folder and an empty name
    hidden = _TOKEN.sub(lambda token: token.group().replace("/", "\0"), kept)
    head, slash, tail = hidden.rpartition("/")
    leaf = f"{name}_{tail}" if tail else name
    return f"{folder}/{head}{slash}{leaf}".replace("\0", "/")


def safe_leaf(text: str) -> str:
    """Make a file name of any text: ASCII letters, digits, `.`, `_`, `-`, at most 100 of them."""
    cut = _UNSAFE.sub("_", text[: 4 * MAX_LEAF_CHARS]).lstrip(".-")[:MAX_LEAF_CHARS]
    return cut.rstrip(".") or "job"


def _default(declared: InputSpec | None) -> str:
    default = declared.default if declared else None
    return default if isinstance(default, str) and default else "ComfyUI"


def _with_input(node: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    return {**node, "inputs": {**inputs_of(node), name: value}}
