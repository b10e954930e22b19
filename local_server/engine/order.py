"""The order in which a graph's nodes run: inputs first, what a viewer waits for soonest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_server.engine.validate import is_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Schedule:
    """The nodes of one prompt that still have to run."""

    def __init__(
        self,
        graph: dict[str, Any],
        outputs: Iterable[str],
        is_cached: Callable[[str], bool],
        is_output: Callable[[str], bool],
    ) -> None:
        self._graph = graph
        self._is_cached = is_cached
        self._is_output = is_output
        self._waits_for: dict[str, set[str]] = {}
        self._feeds: dict[str, list[str]] = {}
        for output in outputs:
            self._add(output)

    def __repr__(self) -> str:
        return f"Schedule({len(self._waits_for)} nodes left)"

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    def pick(self) -> str:
        """Choose a node whose inputs are all there.

        Outputs come first, then what feeds an output, then what feeds that: a picture is shown as
        early as can be.

        Raises:
            RuntimeError: the nodes left wait for each other.
        """
        ready = [node_id for node_id, waits in self._waits_for.items() if not waits]
        if not ready:
            raise RuntimeError("Dependency cycle detected")
        for distance in range(3):
            for node_id in ready:
                if self._reaches_output(node_id, distance):
                    return node_id
        return ready[0]

    def done(self, node_id: str) -> None:
        """Let the nodes run that waited for this one."""
        del self._waits_for[node_id]
        for fed in self._feeds.pop(node_id, []):
            self._waits_for[fed].discard(node_id)

    def _add(self, first: str) -> None:
        to_add = [first]
        while to_add:
            node_id = to_add.pop()
            if node_id in self._waits_for:
                continue
            self._waits_for[node_id] = set()
            self._feeds.setdefault(node_id, [])
            for value in self._graph[node_id]["inputs"].values():
                if is_link(value) and not self._is_cached(value[0]):
                    self._waits_for[node_id].add(value[0])
                    self._feeds.setdefault(value[0], []).append(node_id)
                    to_add.append(value[0])

    def _reaches_output(self, node_id: str, distance: int) -> bool:
        if distance == 0:
            return self._is_output(node_id)
        return any(self._reaches_output(fed, distance - 1) for fed in self._feeds.get(node_id, []))
