"""Modal's wire: the real container entrypoint behind our double, called by the real client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract.wires import Outcome
from platforms.modal_world import World, settings_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from platforms.modal_container import Container


class ModalWire:
    """One container, and a user's program that calls it."""

    name = "modal"

    def __init__(self, home: Path, engine: str = "embedded") -> None:
        self._home, self._engine = home, engine
        self._world: World | None = None
        self._container: Container | None = None

    @property
    def world(self) -> World:
        """What is behind it; there from `start` on."""
        assert self._world is not None
        return self._world

    @property
    def pid(self) -> int:
        """The container's process: the engine is a child of it."""
        assert self._container is not None
        assert self._container.process is not None
        return self._container.process.pid

    def start(self, env: Mapping[str, str]) -> None:
        """Deploy the app with these settings, and start its container."""
        self._world = world = World(self._home).__enter__()
        world.deploy({**settings_in(self._home, self._engine), **env})
        self._container = world.container(snapshot=True)
        self._container.ready()

    def send(self, payload: Any, *, timeout_s: float = 60) -> Outcome:
        """Have a job done."""
        found = self.outcome(self.begin(payload), timeout_s)
        assert found is not None
        return found

    def begin(self, payload: Any) -> Any:
        """Spawn a call; give its id."""
        told = self.world.client("spawn", payload)
        assert "result" in told, told
        return told["result"]

    def cancel(self, ticket: Any) -> None:
        """Cancel the call."""
        self.world.client("cancel", ticket)

    def outcome(self, ticket: Any, timeout_s: float = 60) -> Outcome | None:
        """Wait for the end of a call; of one that was cancelled Modal has no result."""
        told = self.world.client("get", ticket, timeout_s=timeout_s)
        if "result" not in told:
            return None
        body = told["result"]
        assert body is not None, f"{ticket} runs after {timeout_s} s"
        return Outcome(ok="statusCode" not in body, body=body)

    def terminate(self, limit_s: float = 40) -> int:
        """End the container as Modal ends one that it needs no more."""
        assert self._container is not None
        return self._container.kill_switch(limit_s)

    def close(self) -> None:
        """Put everything away."""
        if self._world is not None:
            self._world.__exit__(None, None, None)
            self._world = None
