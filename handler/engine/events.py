"""What one prompt tells while the engine has it. Pure data; `execution.py` makes them.

The order of a run: Started, NodesCached, then per node NodeStarted, NodeProgress or Preview any
number of times, NodeOutput; one of Succeeded, Failed, Interrupted, Gone ends it, exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """The engine began to run the prompt.

    Attributes:
        at_ms: Unix time in milliseconds, by the engine's clock.
    """

    at_ms: int


@dataclass(frozen=True, slots=True)
class NodesCached:
    """These nodes will not run: their results are in the engine's cache."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node began to run; ids of expanded subgraph nodes are given as their visible parent."""

    node_id: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """A node counts its steps."""

    node_id: str
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture of the work so far (or an image of SaveImageWebsocket, which looks the same).

    Attributes:
        node_id: None where the frame did not say (event type 1).
        mime: `image/jpeg` or `image/png`.
    """

    node_id: str | None
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """A node finished and told its UI output, `{"images": [{"filename", "subfolder", "type"}]}`."""

    node_id: str
    output: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The run is over; every NodeOutput came before.

    Attributes:
        at_ms: Unix time in milliseconds, by the engine's clock.
    """

    at_ms: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A node raised.

    Attributes:
        exception_type: class name as ComfyUI tells it, `torch.OutOfMemoryError`.
        message: the exception's text without trailing newline.
        traceback: its lines.
    """

    node_id: str
    class_type: str
    exception_type: str
    message: str
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody interrupted the run."""

    node_id: str | None
    class_type: str | None


@dataclass(frozen=True, slots=True)
class Gone:
    """The engine knows nothing of the prompt: deleted from its queue, or lost by a restart."""


EngineEvent = (
    Started
    | NodesCached
    | NodeStarted
    | NodeProgress
    | Preview
    | NodeOutput
    | Succeeded
    | Failed
    | Interrupted
    | Gone
)
End = Succeeded | Failed | Interrupted | Gone
