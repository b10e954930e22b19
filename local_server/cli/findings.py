"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `ok`, `warn`, or `bad`: with one of these the server would not run.
    """

    level: str
    topic: str
    text: str
