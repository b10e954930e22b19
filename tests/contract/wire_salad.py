"""A worker on Salad behind a queue worker's stand-in, as a job of the queue reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract.wires import Outcome
from platforms.salad_double import ImdsDouble, SaladServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from platforms.salad_double import Ticket


class SaladWire:
    """Jobs come to the queue's route; the worker stops one by going away.

    Salad counts a job as succeeded whose answer is 4xx, with the error as its output. `ok` is
    whether that output is no error.
    """

    name = "salad"

    def __init__(self, home: Path, engine: str = "embedded") -> None:
        self._home, self._engine = home, engine
        self._imds = ImdsDouble()
        self._server: SaladServer | None = None

    @property
    def _running(self) -> SaladServer:
        assert self._server is not None
        return self._server

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self._running.process is not None
        return self._running.process.pid

    def start(self, env: Mapping[str, str]) -> None:
        """Start the server."""
        self._server = SaladServer(self._home, self._imds, self._engine, **env).start()

    def send(self, payload: Any, *, timeout_s: float = 60) -> Outcome:
        """Bring a job and wait."""
        found = self.outcome(self.begin(payload), timeout_s)
        assert found is not None
        return found

    def begin(self, payload: Any) -> Any:
        """Bring a job."""
        return self._running.worker.begin(payload)

    def cancel(self, ticket: Ticket) -> None:
        """Go away."""
        ticket.drop()

    def outcome(self, ticket: Ticket, timeout_s: float = 60) -> Outcome | None:
        """Wait for the answer."""
        told = ticket.wait(timeout_s)
        if told is None:
            return None
        return Outcome(200 <= told.status < 300, told.body, told.outcome == "rejected")

    def terminate(self, limit_s: float = 40) -> int:
        """Send SIGTERM."""
        return self._running.stop(limit_s=limit_s)

    def close(self) -> None:
        """Stop it, if it runs, and the doubles."""
        try:
            if self._server is not None and self._server.process is not None:
                self._server.stop()
        finally:
            self._imds.close()
