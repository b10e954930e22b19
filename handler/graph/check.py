"""Every fault of a graph that its declarations show, before it is queued.

The engine validates again; so where a declaration leaves doubt, there is no fault here. What
this adds: all faults at once, in words for people, with what was perhaps meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.graph.faults import GraphFault, Problem, placed, quoted
from handler.graph.links import inputs_of, needed_nodes, unwrapped
from handler.graph.nearest import Suggestions
from handler.graph.values import link_problem, literal_problem, missing_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from handler.graph.object_info import NodeSpec, ObjectInfo

__all__ = ["GraphFault", "check_graph", "has_output_node", "is_output"]

MAX_SUGGESTIONS = 20
"""Faults of a graph that get `choices_near`; the rest go without."""

# Class names share words, "Load" or "Image"; what is only so like is of another pack.
_CLASS_CUTOFF = 0.75

_EDITOR_ONLY = frozenset({"Note", "MarkdownNote", "Reroute", "PrimitiveNode", "GetNode", "SetNode"})


def check_graph(
    graph: Mapping[str, Any], info: ObjectInfo, *, strict: bool = False
) -> list[GraphFault]:
    """Find every fault of a graph, in its key order; circles come last.

    Values are checked only of nodes that an output node needs, as the engine does.

    Args:
        graph: node id -> node; what is no node is a fault.
        info: the engine's classes.
        strict: also give the faults that the class's own validation might waive: choices, limits
            and types of node packs, and names of files in the input folder. For words on a
            graph that the engine has refused.
    """
    suggestions = Suggestions(MAX_SUGGESTIONS)
    specs, unknown = _classes(graph, info, suggestions)
    needed, circles = needed_nodes(graph, specs)
    faults: list[GraphFault] = []
    for node_id, node in graph.items():
        if node_id in needed:
            problems = _node_problems(node, specs[node_id], graph, specs, suggestions, strict)
            faults += [placed(problem, graph, node_id, name) for name, problem in problems]
        elif node_id in unknown:
            faults.append(placed(unknown[node_id], graph, node_id))
    for circle in circles:
        way = " -> ".join(circle if len(circle) <= 12 else [*circle[:11], "…", circle[-1]])
        problem = Problem("cycle", f"the nodes {way} need each other, in a circle")
        faults.append(placed(problem, graph, circle[0]))
    return faults


def has_output_node(graph: Mapping[str, Any], info: ObjectInfo) -> bool:
    """Tell whether running the graph would give something; `save_output: false` does not count."""
    return any(is_output(node, info) for node in graph.values())


def is_output(node: Any, info: ObjectInfo) -> bool:
    """Tell whether a node is one whose results are the caller's."""
    spec = info.node(node.get("class_type")) if isinstance(node, dict) else None
    return spec is not None and spec.output_node and bool(inputs_of(node).get("save_output", True))


def _classes(
    graph: Mapping[str, Any], info: ObjectInfo, suggestions: Suggestions
) -> tuple[dict[str, NodeSpec], dict[str, Problem]]:
    specs: dict[str, NodeSpec] = {}
    unknown: dict[str, Problem] = {}
    for node_id, node in graph.items():
        spec = info.node(node.get("class_type")) if isinstance(node, dict) else None
        if spec is None:
            unknown[node_id] = _class_problem(node, info, suggestions)
        else:
            specs[node_id] = spec
    return specs, unknown


def _class_problem(node: Any, info: ObjectInfo, suggestions: Suggestions) -> Problem:
    if not isinstance(node, dict):
        hint = 'a node is {"class_type": ..., "inputs": {...}}'
        return Problem("invalid_node", "it is no object", hint=hint, received=node)
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        return Problem(
            "missing_class_type",
            'it has no "class_type"',
            hint="export the workflow with Workflow > Export (API)",
            received=class_type,
        )
    message = f"there is no node class {quoted(class_type)} here"
    if class_type in _EDITOR_ONLY:
        hint = "it exists in the editor only: export with Workflow > Export (API)"
        return Problem("missing_node_type", message, hint=hint, received=class_type)
    displayed = info.display_names
    found = suggestions.near(class_type, [*info.classes, *displayed], cutoff=_CLASS_CUTOFF)
    near = tuple(dict.fromkeys(displayed.get(name, name) for name in found))
    hint = f"did you mean {', '.join(quoted(name) for name in near)}?"
    return Problem(
        "missing_node_type",
        message,
        hint=hint if near else "install the node pack that has it in this image",
        received=class_type,
        near=near,
        blame="caller" if near else "image",
    )


def _node_problems(
    node: Mapping[str, Any],
    spec: NodeSpec,
    graph: Mapping[str, Any],
    specs: Mapping[str, NodeSpec],
    suggestions: Suggestions,
    strict: bool,
) -> Iterator[tuple[str | None, Problem]]:
    """Give each problem with the input it is in, None for the node itself."""
    inputs = node.get("inputs")
    if not isinstance(inputs, dict):
        message, hint = 'it has no object "inputs"', 'send "inputs": {} for a node without inputs'
        yield None, Problem("invalid_node", message, hint=hint, received=inputs)
        return
    for name, declared in spec.inputs.items():
        problem = None
        if name not in inputs:
            if declared.required and not declared.dynamic:
                strange = [other for other in inputs if other not in spec.inputs]
                sent = suggestions.near(name, strange) if strange else ()
                problem = missing_problem(declared, sent)
        elif not declared.dynamic:
            value = inputs[name]
            if value.__class__ is list:
                problem = link_problem(declared, value, spec, graph, specs, strict=strict)
            elif value is not None or declared.required:
                value = unwrapped(value)
                problem = literal_problem(declared, value, spec, suggestions, strict=strict)
        if problem is not None:
            yield name, problem
