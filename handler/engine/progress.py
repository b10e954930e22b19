"""Turns the events of one run into a share done and a time left. Pure; `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from handler.engine.events import (
    EngineEvent,
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeProgress,
    NodesCached,
    NodeStarted,
    Succeeded,
)
from handler.graph.links import node_title

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_MOST_UNTIL_SUCCESS_PCT = 99.0


@dataclass(frozen=True, slots=True)
class ProgressView:
    """Where a run stands.

    Attributes:
        node_id, title: the node that works now, None before the first and after the end.
        value, max: its steps; 0 of 1 where it counts none.
        overall_pct: 0 to 100, never falling; 100 only after success.
        eta_s: seconds to the end, None until a node has counted steps.
    """

    node_id: str | None
    title: str | None
    value: float
    max: float
    overall_pct: float
    eta_s: float | None


class ProgressMeter:
    """Counts nodes, all alike, and steps within the one that works.

    Args:
        graph: in API format.
        now: seconds of any monotonic clock, the same in every call.
        output_nodes: the nodes that save something; nodes they do not draw on are not run. None
            for all nodes that no other draws on.
    """

    def __init__(
        self,
        graph: Mapping[str, Mapping[str, Any]],
        now: float,
        *,
        output_nodes: Collection[str] | None = None,
    ) -> None:
        self._graph = graph
        self._sources = {node: tuple(_sources(graph, node)) for node in graph}
        drawn_on = {source for sources in self._sources.values() for source in sources}
        roots = graph.keys() - drawn_on if output_nodes is None else output_nodes
        self._roots = tuple(node for node in roots if node in graph)
        self._counted = self._reachable(frozenset())
        self._done: set[str] = set()
        self._node: str | None = None
        self._node_since = now
        self._value, self._max = 0.0, 1.0
        self._first_step: tuple[float, float] | None = None
        self._durations: list[float] = []
        self._pct = 0.0
        self._end_at: float | None = None
        self._over = False

    def feed(self, event: EngineEvent, now: float) -> ProgressView:
        """Take one event and tell where the run stands after it."""
        match event:
            case NodesCached():
                # What only cached nodes draw on is not run either, cached or not.
                self._done |= self._counted - self._reachable(frozenset(event.nodes))
            case NodeStarted():
                self._enter(event.node_id, now)
            case NodeProgress():
                self._step(event, now)
            case NodeOutput():
                self._done.add(event.node_id)
            case Succeeded():
                self._pct = 100.0
                self._end_at = now
                self._leave(now)
                self._over = True
            case Failed() | Interrupted() | Gone():
                self._end_at = None
                self._leave(now)
                self._over = True
            case _:
                pass
        self._raise_pct()
        return self.view(now)

    def view(self, now: float) -> ProgressView:
        """Tell where the run stands; only the time left changes without an event."""
        node = self._node
        return ProgressView(
            node,
            None if node is None else node_title(self._graph, node),
            self._value,
            self._max,
            round(self._pct, 1),
            None if self._end_at is None else round(max(0.0, self._end_at - now), 1),
        )

    def _reachable(self, closed: frozenset[str]) -> frozenset[str]:
        """Walk from the outputs towards their sources, not into `closed`."""
        found: set[str] = set()
        ahead = [node for node in self._roots if node not in closed]
        while ahead:
            node = ahead.pop()
            if node not in found:
                found.add(node)
                ahead += [source for source in self._sources[node] if source not in closed]
        return frozenset(found)

    def _enter(self, node: str, now: float) -> None:
        if node == self._node:
            return
        self._leave(now)
        # A node that waits for a lazy input is started twice.
        self._done.discard(node)
        self._node, self._node_since = node, now
        self._first_step = None

    def _leave(self, now: float) -> None:
        if self._node is not None:
            self._done.add(self._node)
            self._durations.append(now - self._node_since)
        self._node = None
        self._value, self._max = 0.0, 1.0

    def _step(self, event: NodeProgress, now: float) -> None:
        self._enter(event.node_id, now)
        self._value, self._max = event.value, event.max
        if event.max <= 1:
            return
        if self._first_step is None or event.value < self._first_step[1]:
            # The first step has its warm-up in it: the pace counts from its end.
            self._first_step = (now, event.value)
            return
        since, value = self._first_step
        if event.value > value:
            pace_s = (now - since) / (event.value - value)
            later = len(self._counted - self._done - {event.node_id})
            tail_s = later * median(self._durations) if self._durations else 0.0
            self._end_at = now + pace_s * max(0.0, event.max - event.value) + tail_s

    def _raise_pct(self) -> None:
        if self._over or not self._counted:
            return
        done = len(self._done & self._counted)
        if self._node in self._counted and self._node not in self._done and self._max > 0:
            done_of_node = min(1.0, max(0.0, self._value / self._max))
        else:
            done_of_node = 0.0
        pct = 100.0 * (done + done_of_node) / len(self._counted)
        self._pct = max(self._pct, min(pct, _MOST_UNTIL_SUCCESS_PCT))


def _sources(graph: Mapping[str, Mapping[str, Any]], node: str) -> Iterable[str]:
    inputs = graph[node].get("inputs")
    for value in inputs.values() if isinstance(inputs, dict) else ():
        # A link is [node id, output slot]; anything else in a list is a value.
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
            continue
        if value[0] in graph:
            yield value[0]
