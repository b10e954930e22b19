"""The plain server behind HTTP, as `comfyfn serve` is: the wire that all others are measured by."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

from contract.wires import Outcome
from live import LiveServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class HttpWire:
    """`POST /prompt` in a thread each; a caller stops a job by `/jobs/{id}/cancel`."""

    name = "http"

    def __init__(self, home: Path, engine: str = "embedded") -> None:
        self._home, self._engine = home, engine
        self._server: LiveServer | None = None
        self._ended: dict[str, Outcome] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._numbers = itertools.count(1)

    @property
    def _running(self) -> LiveServer:
        assert self._server is not None
        return self._server

    @property
    def pid(self) -> int:
        """The worker's process: the engine is a child of it."""
        assert self._running.process is not None
        return self._running.process.pid

    def start(self, env: Mapping[str, str]) -> None:
        """Start the server."""
        self._server = LiveServer(self._home, self._engine, **env).start()

    def send(self, payload: Any, *, timeout_s: float = 60) -> Outcome:
        """Post and wait."""
        found = self.outcome(self.begin(payload), timeout_s)
        assert found is not None
        return found

    def begin(self, payload: Any) -> Any:
        """Post in a thread, under an id by which it can be stopped."""
        ticket = f"job-{next(self._numbers)}"
        body = {"id": ticket, **payload} if isinstance(payload, dict) else payload

        def post() -> None:
            answer = self._running.post("/prompt", body)
            self._ended[ticket] = Outcome(answer.is_success, answer.json())

        self._threads[ticket] = threading.Thread(target=post)
        self._threads[ticket].start()
        return ticket

    def cancel(self, ticket: Any) -> None:
        """Stop the job."""
        assert self._running.post(f"/jobs/{ticket}/cancel", {}).status_code in (200, 202)

    def outcome(self, ticket: Any, timeout_s: float = 60) -> Outcome | None:
        """Wait for the answer."""
        self._threads[ticket].join(timeout_s)
        return self._ended[ticket]

    def terminate(self, limit_s: float = 40) -> int:
        """Send SIGTERM."""
        return self._running.stop(limit_s=limit_s)

    def close(self) -> None:
        """Stop it, if it runs."""
        if self._server is not None:
            self._server.stop()
