"""The edges of a graph: what is a link, what the outputs need, where it runs in circles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from handler.graph.object_info import NodeSpec

MAX_CIRCLES = 10
"""Circles told of one graph; a tangle has more of them than nodes."""


# A title stands in every output and event of its node.
_TITLE_CHARS = 200


def as_link(value: Any) -> tuple[str, int] | None:
    """Give (node id, output slot) of a link `["3", 0]`, None for any other value."""
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    ):
        return value[0], value[1]
    return None


def unwrapped(value: Any) -> Any:
    """Give the value inside `{"__value__": x}`, the engine's way to pass a list that is no link."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def inputs_of(node: Any) -> dict[str, Any]:
    """Give a node's inputs, empty for what is no node."""
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def node_title(graph: Mapping[str, Any], node_id: str) -> str:
    """Give what people call a node: its title in the editor, else its class, else its id."""
    node = graph.get(node_id)
    if not isinstance(node, dict):
        return node_id
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    for name in (title, node.get("class_type")):
        if isinstance(name, str) and name:
            return name[:_TITLE_CHARS]
    return node_id


def needed_nodes(
    graph: Mapping[str, Any], specs: Mapping[str, NodeSpec]
) -> tuple[set[str], list[list[str]]]:
    """Follow the declared links upstream from all output nodes.

    The engine validates these nodes and no others. Links of inputs that the class does not
    declare are not followed, as it does not follow them.

    Args:
        graph: the graph.
        specs: the nodes whose class is known, by id.

    Returns:
        The ids found, and each circle as a path that ends with the id it begins with.
    """
    done: set[str] = set()
    circles: list[list[str]] = []
    for root, spec in specs.items():
        if spec.output_node and root not in done:
            _descend(root, graph, specs, done, circles)
    return done, circles


def _descend(
    root: str,
    graph: Mapping[str, Any],
    specs: Mapping[str, NodeSpec],
    done: set[str],
    circles: list[list[str]],
) -> None:
    # By hand, as a chain of nodes may be longer than the interpreter's stack.
    path: dict[str, Iterator[str]] = {root: _sources(graph[root], specs[root])}
    while path:
        current = next(reversed(path))
        for source in path[current]:
            if source in path:
                if len(circles) < MAX_CIRCLES:
                    way = list(path)
                    circles.append([*way[way.index(source) :], source])
            elif source in specs and source not in done:
                path[source] = _sources(graph[source], specs[source])
                break
        else:
            done.add(current)
            path.popitem()


def _sources(node: Any, spec: NodeSpec) -> Iterator[str]:
    declared = spec.inputs
    for name, value in inputs_of(node).items():
        # An input that expands is named `images.image0` where the class declares `images`.
        if value.__class__ is list and (name in declared or name.split(".", 1)[0] in declared):
            link = as_link(value)
            if link is not None:
                yield link[0]
