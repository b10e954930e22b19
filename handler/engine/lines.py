"""What the engine prints, as lines of our log, said of the job that it works on."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from handler.log_context import current_mark, job_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.engine.base import OnEvent
    from handler.engine.events import EngineEvent
    from handler.log_context import JobMark

log = logging.getLogger("comfyfn.comfyui")
# ComfyUI tells that a run has ended, and prints how long it took after that.
LAST_WORDS_S = 0.5
_COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_TROUBLE = re.compile("error|exception|warning|critical|fatal|failed", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last)"


class EngineLines:
    """Logs the lines of one process. Told by its pump's thread; the jobs by the event loop.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # One value, set at once: two threads read and write it.
        self._works_on: tuple[JobMark | None, float | None] = (None, None)
        self._in_traceback = False

    def listening(self, on_event: OnEvent) -> OnEvent:
        """Give a listener for one run that also notes when the engine works on it.

        Called in the context of the run's job, which is the one that lines are then said of.
        """
        from handler.engine.events import Failed, Gone, Interrupted, Started, Succeeded

        mark, ends = current_mark(), (Succeeded, Failed, Interrupted, Gone)

        def listen(event: EngineEvent) -> None:
            if isinstance(event, Started):
                self._works_on = (mark, None)
            elif isinstance(event, ends) and self._works_on == (mark, None):
                self._works_on = (mark, self._clock() + LAST_WORDS_S)
            on_event(event)

        return listen

    def tell(self, line: str, *, passing: bool = False) -> None:
        """Log a line, without colours.

        Args:
            passing: a state of a progress bar that the next one overwrites.
        """
        text = _COLOURS.sub("", line)
        mark, until = self._works_on
        with job_context(mark if until is None or self._clock() < until else None):
            log.log(logging.DEBUG if passing else self._level(text), "%s", text)

    def _level(self, text: str) -> int:
        if self._in_traceback:
            self._in_traceback = text.startswith(" ")  # its last line is the exception
            return logging.WARNING
        self._in_traceback = _TRACEBACK in text
        return logging.WARNING if self._in_traceback or _TROUBLE.search(text) else logging.INFO
