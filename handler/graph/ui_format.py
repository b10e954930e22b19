"""What callers send in place of an API-format graph, and how to say so."""

from __future__ import annotations

from typing import Any

_EXPORT = "export the workflow with Workflow > Export (API)"
_UI_MARKS = frozenset({"links", "last_node_id", "last_link_id", "version", "state", "groups"})


def is_ui_format(value: Any) -> bool:
    """Tell whether a value is what the editor's "Save" writes: `nodes` is a list there.

    Holds for version 0.4 (links as lists) and version 1 (links as objects).
    """
    return (
        isinstance(value, dict)
        and isinstance(value.get("nodes"), list)
        and any(mark in value for mark in _UI_MARKS)
    )


def describe_bad_graph(value: Any) -> str | None:
    """Say for people why a value is no API-format graph, None if it is one in shape.

    Whether its classes and values exist is for `check_graph`; an empty object is a graph.
    """
    if is_ui_format(value):
        return f'this is the format of "Save", for the editor: {_EXPORT} and send that'
    if not isinstance(value, dict):
        return f"the graph has to be an object of nodes by id, not {_named(value)}: {_EXPORT}"
    return _wrapper(value) or next(
        (said for node_id, node in value.items() if (said := _bad_node(node_id, node))), None
    )


def _wrapper(value: dict[Any, Any]) -> str | None:
    """Find a graph one level down, where a request or the editor's whole export was sent."""
    for key in ("prompt", "output", "workflow"):
        inner = value.get(key)
        if not isinstance(inner, dict) or "class_type" in inner:
            continue
        if is_ui_format(inner):
            if not _looks_like_graph(value.get("output")):
                return f'the graph under "{key}" is in the format of "Save": {_EXPORT}'
        elif _looks_like_graph(inner):
            return f'the graph is one level too deep: send what stands under "{key}" alone'
    return None


def _looks_like_graph(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(node, dict) and "class_type" in node for node in value.values()
    )


def _bad_node(node_id: Any, node: Any) -> str | None:
    if not isinstance(node, dict):
        return f'node "{node_id}" has to be an object, not {_named(node)}: {_EXPORT}'
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        return f'node "{node_id}" has no "class_type": {_EXPORT}'
    if not isinstance(node.get("inputs", {}), dict):
        return f'"inputs" of node "{node_id}" has to be an object, not {_named(node["inputs"])}'
    return None


def _named(value: Any) -> str:
    names: dict[type, str] = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return "a text (it looks like JSON that was encoded twice)"
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "that")
