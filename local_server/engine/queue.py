"""The queue of prompts and their history, shared by the event loop and the worker thread."""

from __future__ import annotations

import copy
import heapq
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# (number, prompt id, graph, extra data, ids of the outputs to run), as clients see it.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]

HISTORY_LIMIT = 10_000
SECRET_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left of a prompt that ran.

    Attributes:
        outputs: UI outputs by node id.
        meta: where each output comes from, by node id.
        succeeded: False for an error and for an interrupt.
        messages: (type, data) of the run's milestones.
    """

    outputs: dict[str, Any]
    meta: dict[str, Any]
    succeeded: bool
    messages: list[tuple[str, dict[str, Any]]]


@dataclass(slots=True)
class Flags:
    """What the worker is asked to do before its next prompt."""

    unload_models: bool = False
    free_memory: bool = False


@dataclass(slots=True)
class PromptQueue:
    """Prompts that wait, the one that runs, and those that ended.

    Attributes:
        changed: called, with the lock held, after each change of the number of prompts.
    """

    changed: Callable[[], None]
    _pending: list[Item] = field(default_factory=list)
    _running: Item | None = None
    _history: dict[str, dict[str, Any]] = field(default_factory=dict)
    _flags: Flags = field(default_factory=Flags)
    _closed: bool = False
    _lock: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.RLock())
    )

    def __repr__(self) -> str:
        return f"PromptQueue({self.remaining()} left, {len(self._history)} ended)"

    def put(self, item: Item) -> None:
        """Add a prompt.

        Raises:
            TypeError: another prompt has the same number and id; it is queued all the same, as
                ComfyUI does: the heap compares the graphs, which have no order.
        """
        with self._lock:
            heapq.heappush(self._pending, item)
            self.changed()
            self._lock.notify()

    def take(self) -> Item | None:
        """Wait for the next prompt and make it the running one.

        None tells that there is something else to do: flags to look at, or the end.
        """
        with self._lock:
            while not self._pending:
                if self._closed or self._flags != Flags():
                    return None
                self._lock.wait()
            if self._closed:
                return None
            item = heapq.heappop(self._pending)
            # The executor writes into the graph; what clients are shown stays as it was sent.
            self._running = copy.deepcopy(item)
            self.changed()
            return item

    def finish(self, ending: Ending) -> None:
        """Move the running prompt to the history, in one step."""
        with self._lock:
            item = self._running
            if item is None:
                return
            self._running = None
            if len(self._history) > HISTORY_LIMIT:
                self._history.pop(next(iter(self._history)))
            for key in SECRET_KEYS:
                item[3].pop(key, None)
            self._history[item[1]] = {
                "prompt": item,
                "outputs": ending.outputs,
                "status": {
                    "status_str": "success" if ending.succeeded else "error",
                    "completed": ending.succeeded,
                    "messages": ending.messages,
                },
                "meta": ending.meta,
            }
            self.changed()

    def close(self) -> None:
        """Let the worker end."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the worker is to end."""
        return self._closed

    def remaining(self) -> int:
        """Count the prompts that wait or run."""
        with self._lock:
            return len(self._pending) + (self._running is not None)

    def running_id(self) -> str | None:
        """Give the id of the prompt that runs."""
        with self._lock:
            return self._running[1] if self._running else None

    def snapshot(self) -> dict[str, list[Item]]:
        """Show what runs and what waits; the waiting ones are a heap, not a sorted list."""
        with self._lock:
            running = [self._running] if self._running else []
            return {"queue_running": running, "queue_pending": list(self._pending)}

    def clear(self) -> None:
        """Drop all prompts that wait."""
        with self._lock:
            self._pending = []
            self.changed()

    def delete(self, prompt_id: str) -> None:
        """Drop one prompt that waits; an unknown or running one is left alone."""
        with self._lock:
            for place, item in enumerate(self._pending):
                if item[1] == prompt_id:
                    if len(self._pending) == 1:
                        self.clear()
                    else:
                        self._pending.pop(place)
                        heapq.heapify(self._pending)
                    self.changed()
                    return

    def history_of(self, prompt_id: str) -> dict[str, Any]:
        """Give `{id: entry}`, or `{}` for a prompt that has not ended."""
        with self._lock:
            entry = self._history.get(prompt_id)
            return {} if entry is None else {prompt_id: entry}

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Give a page of the history, oldest first; by default of the newest `max_items`."""
        with self._lock:
            ids = list(self._history)
            if max_items is None:
                ids = ids[max(offset, 0) :]
            else:
                start = offset if offset >= 0 else len(ids) - max_items
                # A page has at least one entry, even if none is asked for.
                ids = ids[max(start, 0) : max(start, 0) + max(max_items, 1)]
            return {prompt_id: self._history[prompt_id] for prompt_id in ids}

    def clear_history(self) -> None:
        """Forget all prompts that ended."""
        with self._lock:
            self._history = {}

    def forget(self, prompt_ids: Iterable[str]) -> None:
        """Forget some prompts that ended."""
        with self._lock:
            for prompt_id in prompt_ids:
                self._history.pop(prompt_id, None)

    def ask(self, *, unload_models: bool, free_memory: bool) -> None:
        """Ask the worker to free memory before its next prompt."""
        with self._lock:
            self._flags.unload_models |= unload_models
            self._flags.free_memory |= free_memory
            self._lock.notify()

    def take_flags(self) -> Flags:
        """Give what the worker was asked for, once."""
        with self._lock:
            flags, self._flags = self._flags, Flags()
            return flags
