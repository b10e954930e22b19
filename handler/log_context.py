"""Which job a line of the log is about.

A job's own task says it once, with `speak_of`; the tasks that it starts have it from there.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class JobMark:
    """What lines about a job say of it. Its uid is none of it: that must not be guessable.

    Attributes:
        job_id: the caller's, or drawn.
        trace_id: 32 hex digits; "" for none.
    """

    job_id: str
    trace_id: str = ""


_mark: ContextVar[JobMark | None] = ContextVar("comfyfn_job", default=None)


def current_mark() -> JobMark | None:
    """Give the job that is spoken of here; None for none."""
    return _mark.get()


def speak_of(mark: JobMark | None) -> None:
    """Speak of a job from here on, in this task or thread and in the tasks that it starts."""
    _mark.set(mark)


@contextlib.contextmanager
def job_context(mark: JobMark | None) -> Iterator[None]:
    """Speak of a job within a block; None for what serves all jobs and outlives this one."""
    token = _mark.set(mark)
    try:
        yield
    finally:
        _mark.reset(token)
