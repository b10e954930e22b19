"""What happened when during a cold start: one record a step, and a chart of them all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["running", "done", "warned", "failed", "skipped", "cancelled"]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Record:
    """A step.

    Attributes:
        start, end: seconds since the timeline began; `end` None while it runs.
        note: a few words on what it came to.
    """

    name: str
    start: float
    end: float | None = None
    outcome: Outcome = "running"
    note: str = ""

    @property
    def seconds(self) -> float:
        """How long it took; 0 while it runs."""
        return 0.0 if self.end is None else self.end - self.start


class Timeline:
    """The steps in the order they began.

    Args:
        clock: gives seconds.
        listener: told of every record that is new or has changed.
    """

    def __init__(
        self, clock: Clock = time.monotonic, listener: Callable[[Record], None] | None = None
    ) -> None:
        self._clock = clock
        self._zero = clock()
        self._listener = listener
        self._records: list[Record] = []

    @property
    def records(self) -> tuple[Record, ...]:
        """All steps up to now."""
        return tuple(self._records)

    def now(self) -> float:
        """Give the seconds since the timeline began."""
        return self._clock() - self._zero

    def begin(self, name: str) -> int:
        """Note that a step begins; the number is for `end`."""
        self._records.append(Record(name, self.now()))
        self._tell(self._records[-1])
        return len(self._records) - 1

    def end(self, number: int, outcome: Outcome, note: str = "") -> None:
        """Note how a step ended."""
        record = replace(self._records[number], end=self.now(), outcome=outcome, note=note)
        self._records[number] = record
        self._tell(record)

    def skip(self, name: str, note: str) -> None:
        """Note a step that could not begin."""
        now = self.now()
        self._records.append(Record(name, now, now, "skipped", note))
        self._tell(self._records[-1])

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note a step done elsewhere, as the engine's boot: it fails by an exception."""
        number = self.begin(name)
        try:
            yield
        except Exception as error:
            self.end(number, "failed", str(error).splitlines()[0] if str(error) else "")
            raise
        except BaseException:
            self.end(number, "cancelled")
            raise
        self.end(number, "done")

    def chart(self, width: int = 40) -> str:
        """Draw all steps against time, one a line."""
        return chart(self._records, self.now(), width)

    def _tell(self, record: Record) -> None:
        if self._listener is not None:
            self._listener(record)


def chart(records: list[Record], now: float, width: int = 40) -> str:
    """Draw steps against time. Pure.

    Args:
        now: where steps that still run are drawn to, in seconds.
        width: of the bars, in characters.
    """
    if not records:
        return "nothing to do"
    whole = max([record.end if record.end is not None else now for record in records] + [1e-3])
    longest = min(max(len(record.name) for record in records), 40)
    rows = []
    for record in records:
        end = record.end if record.end is not None else now
        left = min(round(record.start / whole * width), width - 1)
        bar = max(round(end / whole * width) - left, 1)
        mark = "#" if record.outcome in ("done", "warned") else "x" if record.end else "."
        drawn = (" " * left + mark * bar).ljust(width)
        told = f"{record.outcome}{': ' if record.note else ''}{record.note}"
        rows.append(
            f"{record.name[:longest]:{longest}} |{drawn}| {record.start:6.1f} {end:6.1f} s  {told}"
        )
    return "\n".join(rows)
