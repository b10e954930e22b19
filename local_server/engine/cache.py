"""What is kept of the nodes that ran, so that the same node on the same inputs need not run again.

A node's key is made of its class, its inputs (also those it does not know) and, the same way, of
all nodes above it; node ids are no part of it. Three caches differ in what they drop:
`ClassicCache` keeps what the present graph can use, `LruCache` also older results up to a number,
`NoCache` drops a result once all nodes that use it have run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from local_server.engine.validate import is_link

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from local_server.engine.config import CacheKind
    from local_server.engine.folders import Folders
    from local_server.engine.schema import Node

Graph = dict[str, Any]
Keys = dict[str, "Hashable"]


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of a node.

    Attributes:
        values: for each output the list of its items.
        ui: what clients are told; None for a node that tells nothing.
    """

    values: list[list[Any]]
    ui: dict[str, list[Any]] | None


class Cache(Protocol):
    """Results by node id, for the graph that runs."""

    def begin(self, graph: Graph, keys: Keys) -> None:
        """Turn to another graph, and drop what need not be kept for it."""

    def get(self, node_id: str) -> Kept | None:
        """Give a node's result, of this run or of an earlier one."""

    def put(self, node_id: str, result: Kept) -> None:
        """Keep a node's result."""


@dataclass(slots=True)
class ClassicCache:
    """Keeps the results that the present graph can use."""

    _keys: Keys = field(default_factory=dict)
    _kept: dict[Hashable, Kept] = field(default_factory=dict)

    def begin(self, graph: Graph, keys: Keys) -> None:  # noqa: ARG002 - the port's signature
        """Drop the results that no node of this graph has."""
        self._keys = keys
        wanted = set(keys.values())
        self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}

    def get(self, node_id: str) -> Kept | None:
        """Give a node's result."""
        return self._kept.get(self._keys.get(node_id))

    def put(self, node_id: str, result: Kept) -> None:
        """Keep a node's result."""
        self._kept[self._keys[node_id]] = result


@dataclass(slots=True)
class LruCache:
    """Keeps at most `size` results when a prompt begins, the least recently used go first.

    As in ComfyUI, age is counted in prompts: results of the same prompt go together, and a
    prompt's own results are never dropped for their number.
    """

    size: int
    _keys: Keys = field(default_factory=dict)
    _kept: dict[Hashable, Kept] = field(default_factory=dict)
    _used: dict[Hashable, int] = field(default_factory=dict)
    _prompt: int = 0
    _oldest: int = 0

    def begin(self, graph: Graph, keys: Keys) -> None:  # noqa: ARG002 - the port's signature
        """Mark what this graph can use, and drop the oldest beyond the size."""
        self._keys = keys
        self._prompt += 1
        for key in keys.values():
            self._used[key] = self._prompt
        while len(self._kept) > self.size and self._oldest < self._prompt:
            self._oldest += 1
            for key in [key for key in self._kept if self._used[key] < self._oldest]:
                del self._kept[key]
                del self._used[key]

    def get(self, node_id: str) -> Kept | None:
        """Give a node's result."""
        return self._kept.get(self._keys.get(node_id))

    def put(self, node_id: str, result: Kept) -> None:
        """Keep a node's result."""
        self._kept[self._keys[node_id]] = result


@dataclass(slots=True)
class NoCache:
    """Keeps a result only until the nodes that use it have run."""

    _kept: dict[str, Kept] = field(default_factory=dict)
    _sources: dict[str, set[str]] = field(default_factory=dict)
    _users: dict[str, set[str]] = field(default_factory=dict)
    _ran: set[str] = field(default_factory=set)

    def begin(self, graph: Graph, keys: Keys) -> None:
        """Drop all results."""
        self._kept.clear()
        self._ran.clear()
        self._users = {node_id: set() for node_id in keys}
        self._sources = {node_id: set() for node_id in keys}
        for node_id in keys:
            for value in inputs_of(graph, node_id).values():
                if is_link(value) and value[0] in self._users:
                    self._users[value[0]].add(node_id)
                    self._sources[node_id].add(value[0])

    def get(self, node_id: str) -> Kept | None:
        """Give a node's result."""
        return self._kept.get(node_id)

    def put(self, node_id: str, result: Kept) -> None:
        """Keep a node's result, and drop those that it was the last to use."""
        self._kept[node_id] = result
        self._ran.add(node_id)
        for source in self._sources[node_id]:
            if self._users[source] <= self._ran:
                self._kept.pop(source, None)


def new_cache(kind: CacheKind, size: int) -> Cache:
    """Make an empty cache; `size` counts only for `lru`."""
    if kind == "lru":
        return LruCache(size)
    return NoCache() if kind == "none" else ClassicCache()


def keys_of(graph: Graph, nodes: Mapping[str, Node], fingerprint: Callable[[str], Any]) -> Keys:
    """Give the key of every node of a graph.

    `fingerprint` gives, for a node id, what changes when the node must run again.
    """
    own = {node_id: fingerprint(node_id) for node_id in graph}
    keys: Keys = {}
    for node_id in graph:
        above: dict[str, int] = {}
        _number_above(graph, node_id, above)
        keys[node_id] = tuple(
            _signature(graph, nodes, each, above, own.get(each)) for each in (node_id, *above)
        )
    return keys


def fingerprints(graph: Graph, nodes: Mapping[str, Node], folders: Folders) -> Callable[[str], Any]:
    """Give the function that asks a node for its fingerprint, and notes it in the graph."""

    def ask(node_id: str) -> Any:
        entry = graph[node_id]
        rule = nodes[entry["class_type"]].fingerprint
        if rule is None:
            return False
        if "is_changed" not in entry:
            literals = {
                name: None if is_link(value) else value
                for name, value in inputs_of(graph, node_id).items()
            }
            try:
                entry["is_changed"] = [rule(folders, literals)]
            except (OSError, ValueError, TypeError, AttributeError):
                # Unequal to itself: the node runs, and tells its fault then.
                entry["is_changed"] = float("nan")
        return entry["is_changed"]

    return ask


def inputs_of(graph: Graph, node_id: str) -> dict[str, Any]:
    """Give a node's inputs; a node that no output needs may have none at all."""
    inputs = graph[node_id].get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _number_above(graph: Graph, node_id: str, above: dict[str, int]) -> None:
    """Number the nodes above one, in an order that only its inputs decide."""
    if node_id not in graph:
        return
    inputs = inputs_of(graph, node_id)
    for name in sorted(inputs):
        if is_link(inputs[name]) and inputs[name][0] not in above:
            above[inputs[name][0]] = len(above)
            _number_above(graph, inputs[name][0], above)


def _signature(
    graph: Graph,
    nodes: Mapping[str, Node],
    node_id: str,
    above: Mapping[str, int],
    fingerprint: Any,
) -> Hashable:
    if node_id not in graph:
        return float("nan")
    class_type = graph[node_id]["class_type"]
    # A node that is told its id may do another thing under another one.
    told_id = "UNIQUE_ID" in nodes[class_type].hidden.values()
    inputs = inputs_of(graph, node_id)
    return (
        class_type,
        _frozen(fingerprint),
        node_id if told_id else None,
        *(
            (name, above[inputs[name][0]], inputs[name][1])
            if is_link(inputs[name])
            else (name, _frozen(inputs[name]))
            for name in sorted(inputs)
        ),
    )


def _frozen(value: Any) -> Hashable:
    """Make a JSON value hashable."""
    if isinstance(value, dict):
        return frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value if value.__hash__ else repr(value)
