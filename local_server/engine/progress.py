"""What a running prompt tells of its nodes, and how it is made to stop."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_server.engine.sockets import TEXT_EVENT, Preview

if TYPE_CHECKING:
    from PIL.Image import Image

    from local_server.engine.sockets import Sockets


class InterruptError(Exception):
    """Somebody asked for the running prompt to stop; not an error of a node."""


@dataclass(slots=True)
class Interruption:
    """A request to stop that is seen at the next node or step.

    Attributes:
        count: requests so far.
    """

    count: int = 0
    _asked: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask the running prompt to stop."""
        self.count += 1
        self._asked.set()

    def forget(self) -> None:
        """Drop a request that came while nothing ran, or during the last node."""
        self._asked.clear()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until somebody asks."""
        self._asked.wait(seconds)

    def check(self) -> None:
        """Stop here, if asked.

        Raises:
            InterruptError: somebody asked.
        """
        if self._asked.is_set():
            self._asked.clear()
            raise InterruptError


@dataclass(slots=True)
class Progress:
    """The state of the nodes that one prompt has started so far."""

    sockets: Sockets
    prompt_id: str
    _nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def start(self, node_id: str) -> None:
        """Tell that a node runs."""
        self._tell(node_id, "running", 0.0, 1.0)

    def step(self, node_id: str, value: float, total: float, picture: Preview | None) -> None:
        """Tell how far a node is, in the order that ComfyUI's clients see."""
        client_id = self.sockets.client_id
        self._tell(node_id, "running", value, total)
        named = self.sockets.wants_preview_metadata(client_id)
        if picture is not None and named:
            identity = _identity(node_id, self.prompt_id)
            self.sockets.post("", Preview(picture.form, picture.image, identity), client_id)
        told = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": node_id}
        self.sockets.post("progress", told, client_id)
        if picture is not None and not named:
            self.sockets.post("", picture, client_id)

    def finish(self, node_id: str) -> None:
        """Tell that a node is done."""
        total = self._nodes.get(node_id, {"max": 1})["max"]
        self._tell(node_id, "finished", total, total)

    def _tell(self, node_id: str, state: str, value: float, total: float) -> None:
        entry = {"value": value, "max": total, "state": state}
        self._nodes[node_id] = {**entry, **_identity(node_id, self.prompt_id)}
        told = {"prompt_id": self.prompt_id, "nodes": dict(self._nodes)}
        self.sockets.post("progress_state", told, self.sockets.client_id)


def _identity(node_id: str, prompt_id: str) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "prompt_id": prompt_id,
        "display_node_id": node_id,
        "parent_node_id": None,
        "real_node_id": node_id,
    }


@dataclass(frozen=True, slots=True)
class Reporter:
    """One running node's way to count its steps and to be stopped."""

    progress: Progress
    interruption: Interruption
    node_id: str

    def step(self, value: float, total: float, form: str = "", image: Image | None = None) -> None:
        """Count a step, with a picture (`JPEG` or `PNG`) where there is one.

        Raises:
            InterruptError: somebody asked for the prompt to stop.
        """
        self.interruption.check()
        picture = None if image is None else Preview(form, image)
        self.progress.step(self.node_id, value, total, picture)

    def text(self, text: str) -> None:
        """Tell all clients a text to show at the node."""
        name = self.node_id.encode()
        frame = struct.pack(">II", TEXT_EVENT, len(name)) + name + text.encode()
        self.progress.sockets.post("", frame)
