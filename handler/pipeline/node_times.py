"""How long each node of a run took: until the next one begins, or the run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.engine.events import Failed, Gone, Interrupted, NodeStarted, Succeeded
from handler.metrics import OTHER

if TYPE_CHECKING:
    from handler.engine.events import EngineEvent
    from handler.metrics import Metrics
    from handler.records import Graph


class NodeTimes:
    """Counts the nodes of one run by their class, as its events come."""

    def __init__(self, graph: Graph, metrics: Metrics) -> None:
        self._graph = graph
        self._metrics = metrics
        self._class_type = ""
        self._began = 0.0

    def __repr__(self) -> str:
        return f"<NodeTimes in {self._class_type or 'no node'}>"

    def feed(self, event: EngineEvent, now: float) -> None:
        """Take one event.

        Args:
            now: monotonic seconds.
        """
        if isinstance(event, NodeStarted):
            self._end(now)
            node = self._graph.get(event.node_id) or {}
            self._class_type, self._began = str(node.get("class_type") or OTHER), now
        elif isinstance(event, Succeeded | Failed | Interrupted | Gone):
            self._end(now)

    def _end(self, now: float) -> None:
        if self._class_type:
            self._metrics.node_ended(self._class_type, now - self._began)
            self._class_type = ""
