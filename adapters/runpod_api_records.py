"""What the request API remembers of a job, and RunPod's own figures."""

from __future__ import annotations

import asyncio
import collections
import enum
from dataclasses import dataclass, field
from typing import Any

CHUNKS = 1000


class Status(enum.StrEnum):
    """Where a job is, in RunPod's words."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Whether nothing comes after it but a retry."""
        return self not in (Status.IN_QUEUE, Status.IN_PROGRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What RunPod's own figures are. Times are in seconds.

    Attributes:
        kept_s, kept_sync_s: how long a result of /run and of /runsync is there.
        ttl_s: a job that is not over by then is given up.
        run_bytes, sync_bytes: the most that a request may have.
        least_execution_s, least_ttl_s, most_s: what a policy may say.
    """

    kept_s: float = 1800.0
    kept_sync_s: float = 60.0
    ttl_s: float = 86400.0
    run_bytes: int = 10 << 20
    sync_bytes: int = 20 << 20
    least_execution_s: float = 5.0
    least_ttl_s: float = 10.0
    most_s: float = 7 * 86400.0


PRODUCTION = Terms()


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A job of the queue.

    Attributes:
        sync: it came by /runsync.
        created, taken, ended: Unix seconds.
        execution_s: its policy's; 0 for none.
        hooked: somebody is to be told of its end.
        ending: what came of it is being kept; nothing else can come of it.
        progress: what the worker told last.
        chunks: what it streamed, and nobody has asked for yet.
    """

    id: str
    sync: bool
    created: float
    ttl_s: float
    execution_s: float = 0.0
    hooked: bool = False
    retries: int = 0
    ending: bool = False
    status: Status = Status.IN_QUEUE
    taken: float | None = None
    ended: float | None = None
    progress: Any = None
    chunks: collections.deque[Any] = field(
        default_factory=lambda: collections.deque(maxlen=CHUNKS), repr=False
    )
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    def facts(self) -> dict[str, Any]:
        """Give what outlives the process."""
        names = ("sync", "created", "ttl_s", "execution_s", "hooked", "retries", "taken", "ended")
        return {**{name: getattr(self, name) for name in names}, "status": self.status.value}

    @classmethod
    def of(cls, job_id: str, facts: dict[str, Any]) -> QueuedJob:
        """Make a job of its facts."""
        return cls(job_id, **{**facts, "status": Status(facts["status"])})

    def told(self) -> dict[str, Any]:
        """Give its status without its result; times in ms."""
        told: dict[str, Any] = {"id": self.id, "status": self.status.value}
        if self.taken is not None:
            told["delayTime"] = round(1000 * (self.taken - self.created))
            if self.ended is not None:
                told["executionTime"] = round(1000 * (self.ended - self.taken))
        if self.status is Status.IN_PROGRESS and self.progress is not None:
            told["output"] = self.progress
        return told
