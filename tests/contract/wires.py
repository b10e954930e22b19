"""What the contract test needs of an adapter: the same few verbs, over its platform's own wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the platform was told of a job.

    Attributes:
        ok: it counts as a success there.
        body: the answer or the error, whole: what the platform moves elsewhere is put back.
        retried: the platform would send the job again.
    """

    ok: bool
    body: dict[str, Any] = field(repr=False)
    retried: bool = False


class Wire(Protocol):
    """A worker of one platform, as a process of its own, behind that platform's double."""

    name: str

    @property
    def pid(self) -> int:
        """The worker's process; the engine's is below it."""

    def start(self, env: Mapping[str, str]) -> None:
        """Start the worker with these settings; return when it takes jobs."""

    def send(self, payload: Any, *, timeout_s: float = 60) -> Outcome:
        """Have a job done, and give what came of it."""

    def begin(self, payload: Any) -> Any:
        """Hand a job out; give what it is known by here."""

    def cancel(self, ticket: Any) -> None:
        """Stop a job as the platform does."""

    def outcome(self, ticket: Any, timeout_s: float = 60) -> Outcome | None:
        """Wait for the end of a job; None where the platform is told nothing of it."""

    def terminate(self, limit_s: float = 40) -> int:
        """End the worker as the platform does, and give its exit status."""

    def close(self) -> None:
        """Put everything away."""
