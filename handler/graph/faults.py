"""One thing wrong with a graph, as data that goes into the answer."""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from handler.graph.links import node_title
from handler.masking import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.errors import Blame

FaultType = Literal[
    "missing_node_type",
    "missing_class_type",
    "invalid_node",
    "required_input_missing",
    "invalid_input_type",
    "value_not_in_list",
    "value_bigger_than_max",
    "value_smaller_than_min",
    "literal_for_link",
    "bad_linked_input",
    "dangling_link",
    "return_type_mismatch",
    "cycle",
]
"""ComfyUI's words where it has one for the fault."""

_SHOWN_CHARS = 200


class _Short(reprlib.Repr):
    """Cuts the middle out of long texts: the secret is taken out before, while it can be seen."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(masked(x[: 4 * _SHOWN_CHARS]), level)


_SHORT = _Short()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, before it is said where; the fields are those of `GraphFault`."""

    type: FaultType
    message: str
    hint: str | None = None
    received: Any = None
    near: tuple[str, ...] = ()
    blame: Blame = "caller"


@dataclass(frozen=True, slots=True)
class GraphFault:
    """One fault of a graph, found before the engine saw it.

    Attributes:
        node_id, class_type, title: the node; `class_type` is None where it has none.
        input: name of the input, None for a fault of the node itself.
        message: which node and what is wrong with it, for people.
        hint: what to do about it.
        received: the value at fault, JSON-safe, long ones cut.
        choices_near: what was perhaps meant, best first, at most 5.
        location: `prompt.<id>.inputs.<name>`, or `prompt.<id>`.
        blame: `image` where the node pack or the model file is not installed.
    """

    type: FaultType
    node_id: str
    class_type: str | None
    title: str
    input: str | None
    message: str
    hint: str | None
    received: Any
    choices_near: tuple[str, ...]
    location: str
    blame: Blame = "caller"

    def public(self) -> dict[str, Any]:
        """Give the entry of `details` in an answer."""
        return {**asdict(self), "choices_near": list(self.choices_near)}


def placed(
    problem: Problem, graph: Mapping[str, Any], node_id: str, input_name: str | None = None
) -> GraphFault:
    """Say where a problem is."""
    node = graph[node_id]
    class_type = node.get("class_type") if isinstance(node, dict) else None
    title = node_title(graph, node_id)
    where = f"node {node_id}" if title == node_id else f"node {node_id} ({title})"
    return GraphFault(
        type=problem.type,
        node_id=node_id,
        class_type=class_type if isinstance(class_type, str) else None,
        title=title,
        input=input_name,
        message=f"{where}: {problem.message}",
        hint=problem.hint,
        received=shown(problem.received),
        choices_near=problem.near,
        location=f"prompt.{node_id}" + (f".inputs.{input_name}" if input_name else ""),
        blame=problem.blame,
    )


def shown(value: Any) -> Any:
    """Give a value as it may stand in an answer: JSON-safe, and not a whole file."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = masked(value[: 4 * _SHOWN_CHARS])
        return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, float) and value - value == 0:  # neither infinite nor NaN
        return value
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN_CHARS:
        return f"an integer of {value.bit_length()} bits"
    return _SHORT.repr(value)[:_SHOWN_CHARS]


def quoted(value: Any) -> str:
    """Give a value for a message, short."""
    text = shown(value)
    if isinstance(text, str):
        return f'"{text[:80]}…"' if len(text) > 80 else f'"{text}"'
    return json.dumps(text)
