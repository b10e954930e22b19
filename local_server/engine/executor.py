"""Runs one prompt after another: the graph's nodes in order, and the messages that tell of them."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_server.engine.cache import Kept, fingerprints, inputs_of, keys_of, new_cache
from local_server.engine.order import Schedule
from local_server.engine.progress import InterruptError, Progress, Reporter
from local_server.engine.queue import Ending
from local_server.engine.schema import Call, Node, Result, Shown
from local_server.engine.validate import full_type_name, is_link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_server.engine.cache import Cache
    from local_server.engine.config import EngineConfig
    from local_server.engine.folders import Folders
    from local_server.engine.progress import Interruption
    from local_server.engine.queue import Item
    from local_server.engine.sockets import Sockets

logger = logging.getLogger("comfyfn.embedded")

OUT_OF_MEMORY = "OutOfMemoryError"
MEMORY_HINT = (
    "The device has too little memory for this graph. Smaller images or batches need less."
)

# Inputs by name, each the list of items that the node is called for.
Items = dict[str, list[Any]]


@dataclass(slots=True)
class Executor:
    """The engine's only place where nodes run.

    Attributes:
        runs: prompts executed so far.
    """

    config: EngineConfig
    folders: Folders
    nodes: Mapping[str, Node]
    sockets: Sockets
    interruption: Interruption
    runs: int = 0
    _cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        self.free_memory()

    def free_memory(self) -> None:
        """Forget all results."""
        self._cache = new_cache(self.config.cache, self.config.cache_size)

    def run(self, item: Item) -> Ending:
        """Run a prompt to its end; faults of nodes become part of the ending."""
        _, prompt_id, graph, extra, outputs = item
        self.runs += 1
        self.interruption.forget()
        self.sockets.client_id = extra.get("client_id")
        run = _Run(self, prompt_id, graph, extra, self._cache)
        try:
            return run.to_the_end(outputs)
        finally:
            self.sockets.last_node_id = None


@dataclass(slots=True)
class _Run:
    """One prompt while it runs."""

    engine: Executor
    prompt_id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    cache: Cache
    progress: Progress = field(init=False)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = Progress(self.engine.sockets, self.prompt_id)

    def to_the_end(self, outputs: list[str]) -> Ending:
        """Run the nodes that the outputs need."""
        nodes = self.engine.nodes
        self._tell("execution_start", {"prompt_id": self.prompt_id})
        ask = fingerprints(self.graph, nodes, self.engine.folders)
        self.cache.begin(self.graph, keys_of(self.graph, nodes, ask))
        cached = [node_id for node_id in self.graph if self.cache.get(node_id)]
        self._tell("execution_cached", {"nodes": cached, "prompt_id": self.prompt_id})
        schedule = Schedule(
            self.graph,
            outputs,
            is_cached=lambda node_id: self.cache.get(node_id) is not None,
            is_output=lambda node_id: nodes[self.graph[node_id]["class_type"]].output_node,
        )
        succeeded = self._all_nodes(schedule)
        if succeeded:
            self._tell("execution_success", {"prompt_id": self.prompt_id})
        told = self._outputs()
        return Ending(told, {node_id: _meta(node_id) for node_id in told}, succeeded, self.messages)

    def _all_nodes(self, schedule: Schedule) -> bool:
        while schedule:
            node_id = schedule.pick()
            kept = self.cache.get(node_id)
            if kept is not None:
                self._tell_output(node_id, kept.ui)
                self.progress.finish(node_id)
            elif not self._one_node(node_id):
                return False
            schedule.done(node_id)
        return True

    def _one_node(self, node_id: str) -> bool:
        """Run one node; False if it failed or was interrupted."""
        node = self.engine.nodes[self.graph[node_id]["class_type"]]
        items: Items = {}
        try:
            self.progress.start(node_id)
            items = self._items(node_id, node)
            self._tell_executing(node_id)
            kept = self._called(node_id, node, items)
        except InterruptError:
            logger.info("Processing interrupted")
            self._tell("execution_interrupted", self._place(node_id, node), broadcast=True)
            return False
        except Exception as problem:  # noqa: BLE001 - whatever a node raises fails only its prompt
            logger.warning("node %s (%s) failed: %s", node_id, node.name, problem)
            self._tell("execution_error", self._failure(node_id, node, items, problem))
            return False
        if kept.ui is not None:
            self._tell_output(node_id, kept.ui)
        self.cache.put(node_id, kept)
        self.progress.finish(node_id)
        self.executed.append(node_id)
        return True

    def _items(self, node_id: str, node: Node) -> Items:
        """Gather a node's inputs; literals of unknown names are left out, links are not."""
        items: Items = {}
        for name, value in inputs_of(self.graph, node_id).items():
            if is_link(value):
                source = self.cache.get(value[0])
                slot = int(value[1])
                found = source is not None and slot < len(source.values)
                items[name] = source.values[slot] if source is not None and found else [None]
            elif name in node.required or name in node.optional:
                items[name] = [value]
        return items

    def _called(self, node_id: str, node: Node, items: Items) -> Kept:
        """Call a node once for each item of its longest input, and join the results."""
        call = self._call(node_id)
        results: list[Result] = []
        if node.list_inputs:
            self.engine.interruption.check()
            results.append(node(call, items))
        else:
            for index in range(max((len(each) for each in items.values()), default=1)):
                self.engine.interruption.check()
                one = {name: each[min(index, len(each) - 1)] for name, each in items.items()}
                results.append(node(call, one))
        uis = [result.ui for result in results if isinstance(result, Shown)]
        rows = [result.values if isinstance(result, Shown) else result for result in results]
        values: list[list[Any]] = [[] for _ in node.outputs]
        for row in rows:
            for place, value in zip(values, row, strict=True):
                if node.list_outputs:
                    place.extend(value)
                else:
                    place.append(value)
        ui = {key: [item for each in uis for item in each[key]] for key in uis[0]} if uis else None
        return Kept(values, ui or None)

    def _call(self, node_id: str) -> Call:
        engine = self.engine
        return Call(
            folders=engine.folders,
            reporter=Reporter(self.progress, engine.interruption, node_id),
            node_id=node_id,
            prompt=self.graph,
            extra_pnginfo=self.extra.get("extra_pnginfo"),
            metadata=engine.config.metadata,
            previews=engine.config.previews,
        )

    def _tell(self, event: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """Send a milestone and note it for the history; without a client nobody gets it."""
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append((event, data))
        client_id = self.engine.sockets.client_id
        if client_id is not None or broadcast:
            self.engine.sockets.post(event, data, client_id)

    def _tell_executing(self, node_id: str) -> None:
        sockets = self.engine.sockets
        if sockets.client_id is not None:
            sockets.last_node_id = node_id
            told = {"node": node_id, "display_node": node_id, "prompt_id": self.prompt_id}
            sockets.post("executing", told, sockets.client_id)

    def _tell_output(self, node_id: str, ui: dict[str, list[Any]] | None) -> None:
        sockets = self.engine.sockets
        if sockets.client_id is not None:
            told = {"node": node_id, "display_node": node_id, "output": ui}
            sockets.post("executed", told | {"prompt_id": self.prompt_id}, sockets.client_id)

    def _outputs(self) -> dict[str, Any]:
        """Give the outputs of this run, also those that an earlier run left in the cache."""
        told = {node_id: self.cache.get(node_id) for node_id in self.graph}
        return {node_id: kept.ui for node_id, kept in told.items() if kept and kept.ui}

    def _place(self, node_id: str, node: Node) -> dict[str, Any]:
        return {
            "prompt_id": self.prompt_id,
            "node_id": node_id,
            "node_type": node.name,
            "executed": list(self.executed),
        }

    def _failure(
        self, node_id: str, node: Node, items: Items, problem: Exception
    ) -> dict[str, Any]:
        hidden = {"PROMPT": self.graph, "EXTRA_PNGINFO": self.extra.get("extra_pnginfo")}
        shown = dict(items)
        if items and not node.schema3:
            for name, kind in node.hidden.items():
                shown[name] = [hidden.get(kind, node_id)]
        hint = MEMORY_HINT if type(problem).__name__ == OUT_OF_MEMORY else ""
        return self._place(node_id, node) | {
            "exception_message": f"{problem}\n{hint}",
            "exception_type": full_type_name(type(problem)),
            "traceback": traceback.format_tb(problem.__traceback__),
            "current_inputs": {
                name: [_plain(value) for value in values] for name, values in shown.items()
            },
            "current_outputs": list(self.graph),
        }


def _meta(node_id: str) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "display_node": node_id,
        "parent_node": None,
        "real_node_id": node_id,
    }


def _plain(value: Any) -> Any:
    """Make a value fit for JSON: simple ones as they are, others as text."""
    return value if value is None or isinstance(value, (int, float, bool, str)) else str(value)
