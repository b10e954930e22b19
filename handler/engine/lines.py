"""What the engine prints, as lines of our log, said of the job that it works on."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.log_context import current_mark, job_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from handler.engine.base import OnEvent
    from handler.engine.events import EngineEvent
    from handler.log_context import JobMark

log = logging.getLogger("comfyfn.comfyui")
# ComfyUI tells that a run has ended, and prints how long it took after that.
LAST_WORDS_S = 0.5
_LAST_WORDS = "Prompt executed in "
_COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_TROUBLE = re.compile("error|exception|warning|critical|fatal|failed", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(slots=True, eq=False)
class _Run:
    """What the engine was handed.

    Attributes:
        mark: of its job.
        done: its last words were read.
        until: its last words come before this, in the clock's seconds; None while it runs.
    """

    mark: JobMark | None
    done: bool = False
    until: float | None = None


class EngineLines:
    """Logs the lines of one process. Told by its pump's thread; the jobs by the event loop.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begun: _Run | None = None
        self._before: _Run | None = None
        self._handed: list[_Run] = []
        self._in_traceback = False

    @contextlib.contextmanager
    def listening(self, on_event: OnEvent) -> Iterator[OnEvent]:
        """Give a listener for one run that also notes when the engine works on it.

        Enter it in the context of the run's job, which is the one that lines are then said of, and
        before the engine is handed the run: a short one is over before its beginning is told.
        """
        from handler.engine.events import Failed, Gone, Interrupted, Started, Succeeded

        run, ends = _Run(current_mark()), (Succeeded, Failed, Interrupted, Gone)

        def listen(event: EngineEvent) -> None:
            if isinstance(event, Started):
                with self._lock:
                    self._forget(run)
                    if self._begun is not run:
                        self._before, self._begun = self._begun, run
                    if self._before is not None:
                        self._ends(self._before)
            elif isinstance(event, ends):
                with self._lock:
                    self._forget(run)
                    self._ends(run)
            on_event(event)

        with self._lock:
            self._handed.append(run)
        try:
            yield listen
        finally:
            with self._lock:
                self._forget(run)

    def tell(self, line: str, *, passing: bool = False) -> None:
        """Log a line, without colours.

        Args:
            passing: a state of a progress bar that the next one overwrites.
        """
        text = _COLOURS.sub("", line)
        with self._lock:
            last = text.startswith(_LAST_WORDS)
            run = self._speaks(last=last)
            if last and run is not None:
                run.done = True
                self._forget(run)
        with job_context(run.mark if run is not None else None):
            log.log(logging.DEBUG if passing else self._level(text), "%s", text)

    def _speaks(self, *, last: bool) -> _Run | None:
        """Give the run that a line is of: an engine that is done with one takes the next.

        Args:
            last: it says how long a run took: may be that before the one which is known to have
                begun, as we are told of lines and of beginnings by two ways.
        """
        if last and self._before is not None and self._may_speak(self._before):
            return self._before
        if self._begun is not None and self._may_speak(self._begun):
            return self._begun
        return self._handed[0] if self._handed else None

    def _may_speak(self, run: _Run) -> bool:
        return not run.done and (run.until is None or self._clock() < run.until)

    def _ends(self, run: _Run) -> None:
        if run.until is None:
            run.until = self._clock() + LAST_WORDS_S

    def _forget(self, run: _Run) -> None:
        if run in self._handed:
            self._handed.remove(run)

    def _level(self, text: str) -> int:
        if self._in_traceback:
            self._in_traceback = text.startswith(" ")  # its last line is the exception
            return logging.WARNING
        self._in_traceback = _TRACEBACK in text
        return logging.WARNING if self._in_traceback or _TROUBLE.search(text) else logging.INFO
