"""RunPod's queue as a wire: the SDK's worker as a process, behind a double of the job API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract.wires import Outcome
from platforms.runpod_double import RunpodDouble, RunpodWorker, engine_env

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

QUIET_S = 3.0
"""A stopped job of which nothing was posted for so long is one of which nothing will be."""


class RunPodWire:
    """Jobs through RunPod's job API."""

    name = "runpod"

    def __init__(self, home: Path, engine: str = "embedded") -> None:
        self._home, self._engine = home, engine
        self.double = RunpodDouble().start()
        self.worker: RunpodWorker | None = None
        self._stopped: set[str] = set()

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self.worker is not None
        assert self.worker.process is not None
        return self.worker.process.pid

    def start(self, env: Mapping[str, str]) -> None:
        """Start the worker; return when it polls."""
        env = {**engine_env(self._engine), **env}
        self.worker = RunpodWorker(self.double, self._home, **env).start()

    def send(self, payload: Any, *, timeout_s: float = 60) -> Outcome:
        """Queue a job and wait for its result."""
        outcome = self.outcome(self.begin(payload), timeout_s)
        assert outcome is not None
        return outcome

    def begin(self, payload: Any) -> str:
        """Queue a job."""
        return self.double.give(payload)

    def cancel(self, ticket: str) -> None:
        """Stop a job as /cancel does."""
        self._stopped.add(ticket)
        self.double.stop(ticket)

    def outcome(self, ticket: str, timeout_s: float = 60) -> Outcome | None:
        """Wait for a job's result; of one that was stopped there is none."""
        limit_s = min(timeout_s, QUIET_S) if ticket in self._stopped else timeout_s
        try:
            posted = self.double.result(ticket, limit_s)
        except AssertionError:
            if ticket in self._stopped:
                return None
            raise
        body = dict(posted.get("output") or {})
        if "error" in posted:
            body["error"] = posted["error"]
        if posted.get("stopPod"):
            body["refresh_worker"] = True
        return Outcome("error" not in posted, body)

    def terminate(self, limit_s: float = 40) -> int:
        """End the worker with SIGTERM, as RunPod does."""
        assert self.worker is not None
        return self.worker.end(limit_s=limit_s)

    def close(self) -> None:
        """End what runs, and the double."""
        if self.worker is not None:
            self.worker.close()
        self.double.close()
