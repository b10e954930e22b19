"""What the log says while an engine is waited for: silence looks like a hang."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

log = logging.getLogger("comfyfn.engine")


@dataclass(slots=True)
class Patience:
    """Words now and then about a wait.

    Attributes:
        what: what is waited for.
        until_s: the wait's limit, in seconds.
        level: of the log lines.
        next_s, every_s: seconds of waiting before the first line, and between lines.
    """

    what: str
    until_s: float
    level: int
    next_s: float
    every_s: float

    def told(self, waited_s: float, error: Exception) -> None:
        """Take that there was no answer yet; a line is logged when it is time for one."""
        if waited_s < self.next_s:
            return
        self.next_s = waited_s + self.every_s
        log.log(
            self.level,
            "waiting for %s: %s; %.0f s so far (gives up after %g s, BOOT_TIMEOUT_S)",
            self.what,
            why_silent(error),
            waited_s,
            self.until_s,
        )


def patience_for(url: str, until_s: float, *, started: bool) -> Patience:
    """Choose how often: one we started says itself what it does, an attached one may be no engine.

    Args:
        started: we started it.
    """
    if started:
        return Patience(f"the engine at {url}", until_s, logging.INFO, 60.0, 60.0)
    return Patience(f"ComfyUI at {url}", until_s, logging.WARNING, 2.0, 30.0)


def why_silent(error: Exception) -> str:
    """Say in a few words why there was no answer."""
    cause = error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return "no answer"
    if isinstance(cause, OSError) and cause.errno is not None:
        words = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
        return (words or str(cause)).lower()
    return str(error)
