"""A node's exception -> whose fault it is and what to do. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.errors import Blame, ExecutionFailed, InvalidWorkflow
from handler.graph.check import check_graph
from handler.graph.rewrite import node_title
from handler.masking import masked

if TYPE_CHECKING:
    from handler.engine.base import GraphRefused
    from handler.engine.events import Failed
    from handler.graph.object_info import ObjectInfo
    from handler.records import Graph


MOST_DOUBTS = 50
_MASKED_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Cause:
    """A kind of fault that is told by the exception's type or text."""

    name: str
    pattern: re.Pattern[str]
    blame: Blame
    retryable: bool
    hint: str


CAUSES = (
    Cause(
        "out_of_memory",
        re.compile(
            r"MemoryError|CUDA out of memory|out of memory|failed to allocate|unable to allocate"
            r"|not enough memory|can't allocate memory|insufficient memory",
            re.IGNORECASE,
        ),
        "platform",
        retryable=False,
        hint="a smaller size, a smaller batch, or a GPU with more memory",
    ),
    Cause(
        "gpu_fault",
        re.compile(
            r"unspecified launch failure|device-side assert|illegal memory access|CUDA error"
            r"|misaligned address|invalid device function|CUDA driver",
            re.IGNORECASE,
        ),
        "platform",
        retryable=True,
        hint="the GPU or its driver failed; another worker may do",
    ),
    Cause(
        "broken_model",
        re.compile(r"SafetensorError|invalid load key|PytorchStreamReader|HeaderTooLarge"),
        "image",
        retryable=False,
        hint="the model file is broken or incomplete: fetch it again",
    ),
    Cause(
        "missing_module",
        re.compile(r"ModuleNotFoundError|ImportError"),
        "image",
        retryable=False,
        hint="a Python package is missing in ComfyUI's environment",
    ),
)


def execution_failed(end: Failed, graph: Graph) -> ExecutionFailed:
    """Make the error of a node that raised."""
    text = f"{end.exception_type}: {end.message}"
    cause = next((c for c in CAUSES if c.pattern.search(text)), None)
    title = node_title(graph, end.node_id) if end.node_id in graph else None
    return ExecutionFailed(
        f"node {end.node_id} ({end.class_type}) failed: {end.message or end.exception_type}",
        location=f"prompt.{end.node_id}",
        node_id=end.node_id,
        node_title=title,
        class_type=end.class_type,
        blame=cause.blame if cause else None,
        retryable=cause.retryable if cause else False,
        hint=cause.hint if cause else None,
        details={
            "exception_type": end.exception_type,
            "exception_message": end.message,
            "traceback": list(end.traceback),
            "cause": cause.name if cause else None,
        },
    )


def graph_refused(error: GraphRefused, graph: Graph, info: ObjectInfo) -> InvalidWorkflow:
    """Make the error of a graph that passed our check and not the engine's own.

    Node packs may waive or add checks, so ours keeps quiet about what they may take; now that the
    engine refused, its doubts are worth telling: they have the nearest names.
    """
    doubts = {fault.node_id: fault for fault in check_graph(graph, info, strict=True)}
    node_id = next(iter(error.node_errors), None)
    doubt = doubts.get(node_id or "") or next(iter(doubts.values()), None)
    if node_id is None and doubt is not None:
        node_id = doubt.node_id
    node = graph.get(node_id or "") or {}
    node_errors, told = _without_secrets(error.node_errors), _without_secrets(error.error)
    lines = [_line(i, faults) for i, faults in node_errors.items()]
    text = "; ".join(lines) or str(told.get("details") or "")
    return InvalidWorkflow(
        f"{error.message}: {text}" if text else error.message,
        location=doubt.location if doubt else f"prompt.{node_id}" if node_id else "prompt",
        node_id=node_id,
        node_title=node_title(graph, node_id) if node_id in graph else None,
        class_type=node.get("class_type"),
        hint=doubt.hint if doubt else None,
        details={
            "error": told,
            "node_errors": node_errors,
            "doubts": [fault.public() for fault in list(doubts.values())[:MOST_DOUBTS]],
        },
    )


def _without_secrets(told: Any) -> Any:
    """Give what the engine tells; it quotes values as they came, with what is in their URLs."""
    if isinstance(told, dict):
        return {key: _without_secrets(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_without_secrets(value) for value in told]
    if isinstance(told, str) and ("@" in told or "=" in told):
        return masked(told[:_MASKED_CHARS]) + ("…" if len(told) > _MASKED_CHARS else "")
    return told


def _line(node_id: str, told: dict[str, Any]) -> str:
    faults = [
        ": ".join(filter(None, (str(f.get("message") or ""), str(f.get("details") or ""))))
        for f in told.get("errors") or []
    ]
    return f"node {node_id} ({told.get('class_type')}): {', '.join(faults)}"
