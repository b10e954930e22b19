"""How the worker is, as one word and the facts behind it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Health(enum.Enum):
    """The worker's state, for probes and people."""

    STARTING = "starting"
    """The engine boots or warms up; the port is open already."""
    READY = "ready"
    """A job sent now begins at once, or waits for its turn."""
    RECOVERING = "recovering"
    """The engine ended and is being started again; jobs wait."""
    OVERLOADED = "overloaded"
    """The queue is full; jobs are refused with 429."""
    DRAINING = "draining"
    """On the way down: jobs in hand end, new ones are refused."""
    UNHEALTHY = "unhealthy"
    """Nothing will run here any more: replace this worker."""
    STOPPED = "stopped"
    """Down."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A snapshot of the worker.

    Attributes:
        reason: why it is not ready, for people; None when ready.
        started: whether boot and warmup have ended once.
        waiting, running: jobs before the engine, jobs in it.
        boot: seconds per phase and findings of the last boot.
        gpu_faults: engines in a row that the GPU failed, without a good run between them.
        gpu_fault: how it failed the last run.
    """

    health: Health
    reason: str | None
    started: bool
    engine: dict[str, Any]
    waiting: int
    running: int
    boot: dict[str, Any] = field(default_factory=dict)
    gpu_faults: int = 0
    gpu_fault: str = ""

    @property
    def ready(self) -> bool:
        """Whether a job should be sent here."""
        return self.health is Health.READY

    @property
    def alive(self) -> bool:
        """Whether this worker works or can get there by itself."""
        return self.health is not Health.UNHEALTHY
