"""Decides what a prompt did, from messages that may be lost and history that may be late.

Pure: messages and snapshots in, events out, for one prompt. Facts it rests on (ComfyUI 0.3.64):

- Messages of one connection come in order, none missing. What is sent while no connection is
  there is lost, so a run is whole on a connection that saw its `execution_start`.
- The history entry comes up to some milliseconds after `execution_success`, and is there when
  `executing` with node null arrives.
- An entry moves from the queue to the history in one step: a prompt that is not in the queue, and
  then not in the history, is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.engine import messages
from handler.engine.events import (
    End,
    EngineEvent,
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeProgress,
    NodesCached,
    NodeStarted,
    Preview,
    Started,
    Succeeded,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Sent when a node hands on a refusal; the nodes behind it are skipped and the run goes on.
_BLOCKED = "ExecutionBlocked"


class Execution:
    """What is known of one prompt; gives each event once and exactly one end.

    Args:
        prompt_id: other prompts' messages are ignored.
        graph_node_ids: the nodes the caller knows; ids of expanded nodes are named after them.
    """

    def __init__(self, prompt_id: str, graph_node_ids: Iterable[str]) -> None:
        self.prompt_id = prompt_id
        self._graph_node_ids = frozenset(graph_node_ids)
        self._outputs: dict[str, dict[str, Any]] = {}
        self._visible_ids: dict[str, str] = {}
        self._steps: dict[str, tuple[float, float]] = {}
        self._node: str | None = None
        self._started = False
        self._cached = False
        self._running = False
        # Whether the connection has told everything since execution_start.
        self._whole = False
        # Whether frames without a prompt id are ours: the last frame with one was.
        self._ours = False
        self._reconnects = 0
        self._doubtful = False
        self._over = False
        self._held: End | None = None
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "running" if self._running else "waiting"
        doubt = ", needs history" if self.needs_history else ""
        return f"<Execution {self.prompt_id} {state}, {len(self._outputs)} outputs{doubt}>"

    @property
    def ended(self) -> bool:
        """Whether the end was given."""
        return self._ended

    @property
    def running(self) -> bool:
        """Whether the engine was seen to work on the prompt, and no end was given."""
        return self._running and not self._ended

    @property
    def outputs(self) -> Mapping[str, dict[str, Any]]:
        """UI outputs seen so far, by the engine's own node id (visible or expanded)."""
        return self._outputs

    @property
    def reconnects(self) -> int:
        """How often messages may have been lost; note it before a snapshot is taken."""
        return self._reconnects

    @property
    def needs_history(self) -> bool:
        """Whether only a snapshot can tell more; stays so until one settled it.

        Where the end was seen and the entry is not there yet, ask again after some milliseconds.
        """
        return not self._ended and (self._over or self._doubtful)

    def feed(self, message: messages.Message) -> list[EngineEvent]:
        """Take one message, of any prompt."""
        if self._ended or not self._concerns(message):
            return []
        match message:
            case messages.ProgressState():
                return [
                    event
                    for state in message.nodes
                    for event in self._on_steps(*state)
                ]  # fmt: skip
            case messages.Progress():
                return self._on_steps(message.node, None, message.value, message.max)
            case messages.PreviewFrame():
                return self._on_preview(message)
            case messages.Executing():
                return self._on_executing(message)
            case messages.Executed():
                return self._on_output(message.node, message.display_node, message.output)
            case messages.ExecutionStart():
                return self._on_start(message)
            case messages.ExecutionCached():
                return self._on_cached(message)
            case _:
                return self._on_end(self._end_of(message))

    def feed_reconnected(self) -> None:
        """Take note that the connection was replaced: what was sent meanwhile is lost."""
        if self._ended:
            return
        self._reconnects += 1
        self._doubtful = True
        self._whole = False
        self._ours = False

    def feed_history(
        self,
        entry: dict[str, Any] | None,
        *,
        in_queue: bool | None,
        reconnects_before: int | None = None,
    ) -> list[EngineEvent]:
        """Take a snapshot: the queue was looked at first, then the history.

        Only ask after the submit was answered: an unsent prompt looks like one that is gone.

        Args:
            entry: what `/history/{prompt_id}` has, None for nothing.
            in_queue: whether `/queue` had it, running or pending; None where it was not asked.
            reconnects_before: `reconnects` when the snapshot was begun. A later reconnect may
                have lost what the snapshot did not see yet, so the doubt stays.
        """
        if self._ended:
            return []
        if entry is not None:
            return self._on_entry(entry)
        if in_queue is None:
            return []
        if in_queue:
            if reconnects_before is None or reconnects_before == self._reconnects:
                self._doubtful = False
            return []
        # A success without its outputs must not pass for one.
        end = Gone() if self._held is None or isinstance(self._held, Succeeded) else self._held
        return self._finish(end)

    def _concerns(self, message: messages.Message) -> bool:
        if isinstance(message, messages.Status | messages.FeatureFlags | messages.Unknown):
            return False
        if message.prompt_id is None:
            # `executing` without an id greets a reconnected client, whosever prompt runs.
            return self._ours and not isinstance(message, messages.Executing)
        self._ours = message.prompt_id == self.prompt_id
        self._running = self._running or self._ours
        return self._ours

    def _on_start(self, message: messages.ExecutionStart) -> list[EngineEvent]:
        # Nothing of the run comes before this, so nothing of it can have been lost.
        self._whole = True
        self._doubtful = False
        if self._started:
            return []
        self._started = True
        return [Started(message.at_ms)]

    def _on_cached(self, message: messages.ExecutionCached) -> list[EngineEvent]:
        if self._cached:
            return []
        self._cached = True
        return [NodesCached(message.nodes)]

    def _on_executing(self, message: messages.Executing) -> list[EngineEvent]:
        if message.node is None:
            self._over = True
            return []
        visible = self._visible(message.node, message.display_node)
        if visible == self._node:
            return []
        self._node = visible
        return [NodeStarted(visible)]

    def _on_steps(
        self, node: str, display_node: str | None, value: float, maximum: float
    ) -> list[EngineEvent]:
        # `progress` and `progress_state` tell each step both.
        if self._steps.get(node) == (value, maximum):
            return []
        self._steps[node] = (value, maximum)
        return [NodeProgress(self._visible(node, display_node), value, maximum)]

    def _on_preview(self, message: messages.PreviewFrame) -> list[EngineEvent]:
        node = message.node
        visible = None if node is None else self._visible(node, message.display_node)
        return [Preview(visible, message.mime, message.data)]

    def _on_output(
        self, node: str, display_node: str | None, output: dict[str, Any] | None
    ) -> list[EngineEvent]:
        if output is None or node in self._outputs:
            return []
        self._outputs[node] = output
        return [NodeOutput(self._visible(node, display_node), output)]

    def _on_end(self, end: End | None) -> list[EngineEvent]:
        if end is None:
            return []
        if self._whole:
            return self._finish(end)
        # Outputs may have been told while nobody listened; the history has them.
        self._held = end
        self._over = True
        return []

    def _on_entry(self, entry: dict[str, Any]) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        meta = _mapping(entry.get("meta"))
        for node, output in _mapping(entry.get("outputs")).items():
            display_node = _mapping(meta.get(node)).get("display_node")
            if isinstance(output, dict):
                shown = display_node if isinstance(display_node, str) else None
                events += self._on_output(node, shown, output)
        return events + self._finish(self._end_in(_mapping(entry.get("status"))))

    def _end_in(self, status: Mapping[str, Any]) -> End:
        # The messages decide: a cycle found at run time has status_str "success".
        told = status.get("messages")
        for pair in reversed(told if isinstance(told, list) else []):
            well_formed = isinstance(pair, list) and len(pair) == 2
            end = self._end_of(messages.from_pair(*pair)) if well_formed else None
            if end is not None:
                return end
        if self._held is not None:
            return self._held
        if status.get("status_str") == "error":
            return Failed("", "", "", "The engine tells of an error without saying which")
        return Succeeded(0)

    def _end_of(self, message: messages.Message) -> End | None:
        match message:
            case messages.ExecutionSuccess():
                return Succeeded(message.at_ms)
            case messages.ExecutionInterrupted():
                node = message.node_id
                visible = None if node is None else self._visible(node, None)
                return Interrupted(visible, message.node_type)
            case messages.ExecutionError() if message.exception_type != _BLOCKED:
                return Failed(
                    self._visible(message.node_id, None),
                    message.node_type,
                    message.exception_type,
                    message.exception_message.rstrip(),
                    message.traceback,
                )
            case _:
                return None

    def _finish(self, end: End) -> list[EngineEvent]:
        self._ended = True
        return [end]

    def _visible(self, node: str, display_node: str | None) -> str:
        if display_node is not None:
            self._visible_ids[node] = display_node
            return display_node
        known = self._visible_ids.get(node)
        if known is not None:
            return known
        # Expanded ids are built as `<parent>.<call>.<graph>.<name>`.
        parent = node.split(".", 1)[0]
        return (
            parent if node not in self._graph_node_ids and parent in self._graph_node_ids else node
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
