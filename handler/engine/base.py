"""The port to an engine: what the service and the pipeline may ask of it.

One implementation speaks ComfyUI's protocol (`comfyui.py`), to a child process or to a server
that already runs. Later one core may drive several, one per GPU.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from handler.errors import EngineDied, InvalidWorkflow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.engine.events import End, EngineEvent
    from handler.engine.files import EngineFiles
    from handler.engine.model_folders import ModelFolders
    from handler.engine.usage import Device, Usage
    from handler.graph.object_info import ObjectInfo
    from handler.records import Graph


class EngineState(enum.Enum):
    """Where an engine is in its life."""

    STARTING = "starting"
    """The process is started and does not answer yet, or warms up."""
    READY = "ready"
    """It takes prompts."""
    RESTARTING = "restarting"
    """It ended and is being started again."""
    FAILED = "failed"
    """It will not be started again: given up, or this machine cannot run it."""
    STOPPED = "stopped"
    """It was told to stop."""


class NeverStarted(EngineDied):
    """The engine ended before it began with this prompt: it may be handed in again."""


class GraphRefused(InvalidWorkflow):
    """The engine's own check refused the graph.

    Attributes:
        engine_status: the engine's HTTP status, 400.
        error: ComfyUI's `{"type", "message", "details", "extra_info"}`.
        node_errors: ComfyUI's faults by node id, `{"errors": [...], "class_type", ...}`.
    """

    def __init__(self, status: int, error: dict[str, Any], node_errors: dict[str, Any]) -> None:
        super().__init__(
            str(error.get("message") or "The engine refused the graph"),
            details={"error": error, "node_errors": node_errors},
        )
        self.engine_status = status
        self.error = error
        self.node_errors = node_errors


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """What the engine is asked to run.

    Attributes:
        prompt_id: ours, unique; also the engine's.
        extra_data: handed on as it is; never stored.
        no_progress_s: longest silence in seconds, 0 for no limit.
    """

    prompt_id: str
    graph: Graph
    extra_data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    no_progress_s: float = 0.0


OnEvent = Callable[["EngineEvent"], None]
MayLaunch = Callable[[], Awaitable[None]]
OnState = Callable[[EngineState], None]
WarmUp = Callable[[], Awaitable[None]]
Tap = Callable[[dict[str, Any]], None]
"""Given a JSON message of ComfyUI's as it came over the WebSocket, `{"type", "data"}`."""


class Engine(Protocol):
    """A ComfyUI, real or embedded."""

    @property
    def files(self) -> EngineFiles:
        """The way to the engine's folders."""

    @property
    def kind(self) -> str:
        """`comfyui`, `embedded` or `attached`."""

    @property
    def version(self) -> str | None:
        """The engine's own version, None before it first answered."""

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""

    @property
    def reason(self) -> str | None:
        """Why it is not ready, for people."""

    @property
    def device(self) -> Device | None:
        """What it computes on, as told at its boot; None for the CPU, and before that."""

    @property
    def boot_report(self) -> dict[str, Any]:
        """Seconds per phase of the last boot, and what else is worth knowing of it.

        `error` is the envelope of what it was given up for; there before FAILED is told.
        """

    def prepare(
        self, on_state: OnState, warm_up: WarmUp, may_launch: MayLaunch | None = None
    ) -> None:
        """Set who is told of state changes, and what runs after each boot before READY.

        Args:
            may_launch: awaited before each launch; raises BootFailed where there must be none.
        """

    def listen(self, tap: Tap) -> None:
        """Hand on every JSON message from now on, whosever prompt it is of."""

    async def start(self) -> None:
        """Boot and warm up; later restarts happen by themselves.

        Raises:
            BootFailed: the engine cannot be started here.
        """

    async def stop(self) -> None:
        """End it; runs in hand fail with EngineDied."""

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        """Run one prompt; `on_event` is called for each event, the End included.

        Raises:
            GraphRefused: the engine refuses the graph.
            EngineDied: it ended under the prompt; NeverStarted where it had not begun.
            Stalled: it lives and was silent for `no_progress_s`.
        """

    async def cancel(self, prompt_id: str) -> None:
        """Take the prompt from the queue or interrupt it; its `run` then ends. Hits no other."""

    async def restart(self, why: str) -> None:
        """Kill and start again; for an engine that does not react any more."""

    async def pause(self) -> None:
        """Hang up on the engine; the next question opens a connection again. For a freeze."""

    async def revive(self) -> None:
        """Connect anew after a freeze; an engine that does not answer is started again.

        Raises:
            BootFailed: it cannot be.
        """

    async def wake(self) -> dict[str, Any]:
        """Show the GPU to an engine that booted without, and learn what it is now.

        Returns:
            `device` (`cuda`, `cpu`, ...), `name`, `vram_total` in bytes, `seconds`; empty where
            the engine was not started to be woken.

        Raises:
            HandlerError: it cannot be woken.
        """

    async def usage(self) -> Usage:
        """Tell the memory that it takes now. Soon, and never an error: None is not known."""

    async def object_info(self) -> ObjectInfo:
        """Give what the engine knows of its nodes; read at boot and kept."""

    async def refresh_class(self, class_type: str) -> None:
        """Read one class anew, before a request is refused for what may have changed."""

    async def models(self) -> dict[str, list[str]]:
        """List the model files of every folder, as they are now."""

    async def models_in(self, folder: str) -> list[str]:
        """List the files of one model folder, as they are now.

        Raises:
            NotFound: the engine has no such folder.
        """

    async def model_folders(self) -> ModelFolders:
        """Give the engine's registry of model folders; read at boot and kept.

        Raises:
            NotReady: it has not booted yet.
        """

    def read_ahead(self, names: Iterable[str]) -> None:
        """Begin to read files of models into memory while it boots. Never waits, never fails.

        Args:
            names: as graphs have them.
        """
