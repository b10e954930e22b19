"""Markdown tables and the few statistics in them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Figures = dict[str, Any]


@dataclass(slots=True)
class Table:
    """A table with a title, and remarks below it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += [_row(self.head), "|" + "---|" * len(self.head)]
            lines += [_row(row) for row in self.rows]
            lines.append("")
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


@dataclass(slots=True)
class Measured:
    """What a measure found: a table to read, figures to compute with."""

    table: Table
    figures: Figures = field(default_factory=dict)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`median [lowest..highest]`, a dash for no values."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} [{low:.{digits}f}..{high:.{digits}f}]"


def middle(values: Sequence[float], digits: int = 1) -> str:
    return f"{median(values):.{digits}f}" if values else "-"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def counted(errors: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in errors.items()) or "0"
