"""Lines of the log: for people on a terminal, or JSON for what collects them."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from handler.log_context import current_mark

if TYPE_CHECKING:
    from handler.settings import Settings

LEVELS = {"trace": "DEBUG", "warn": "WARNING", "fatal": "CRITICAL"}
_PLAIN = re.compile(r"[\w.:/@+-]{1,200}", re.ASCII)


class OneLine(logging.Formatter):
    """A message is one line, whatever a caller's id or a node's error has in it."""

    ESCAPES: ClassVar[dict[int, str]] = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160))}

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Escape control characters and name the job; a traceback comes after, in its lines."""
        message, mark = record.message, current_mark()
        if mark is not None and not message.startswith(f"job {mark.job_id}:"):
            plain = _PLAIN.fullmatch(mark.job_id)
            message += f" job={mark.job_id if plain else json.dumps(mark.job_id)}"
        record.message = message.translate(self.ESCAPES)
        return super().formatMessage(record)


class JsonLine(logging.Formatter):
    """A line is one JSON object of texts, in ASCII: neither bytes nor controls break it.

    Args:
        instance: this worker's name, told in every line; "" for none.
    """

    def __init__(self, instance: str = "") -> None:
        super().__init__()
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        """Give `time`, `level`, `logger`, `message`, and what else is known of the line."""
        at, mark = datetime.fromtimestamp(record.created, UTC), current_mark()
        told: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if mark is not None:
            told["job_id"] = mark.job_id
            if mark.trace_id:
                told["trace_id"] = mark.trace_id
        if self._instance:
            told["instance"] = self._instance
        trouble = [self.formatException(record.exc_info)] if record.exc_info else []
        trouble += [self.formatStack(record.stack_info)] if record.stack_info else []
        if trouble:
            told["exception"] = "\n".join(trouble)
        return json.dumps(told)


def configure_logging(settings: Settings, instance: str = "") -> None:
    """Write our lines, the engine's and the libraries' to standard error, as LOG_FORMAT has it.

    Args:
        instance: this worker's name; INSTANCE_ID, or the host's, where it is "".
    """
    level = logging.getLevelName(LEVELS.get(settings.log_level, settings.log_level.upper()))
    for_people = writes_text(settings.log_format, terminal=sys.stderr.isatty())
    lines = logging.StreamHandler()
    lines.setFormatter(
        OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        if for_people
        else JsonLine(instance or settings.instance_id or _host())
    )
    # Libraries tell what nobody asked for, and secrets with it: httpx every request's URL at INFO,
    # botocore at DEBUG what it signs.
    logging.basicConfig(level=max(logging.WARNING, level), handlers=[lines])
    logging.getLogger("comfyfn").setLevel(level)
    # On a terminal ComfyUI's own talk would bury ours: all of it at DEBUG, its troubles at INFO.
    quieter = level + 10 if for_people and level > logging.DEBUG else level
    logging.getLogger("comfyfn.comfyui").setLevel(quieter)
    logging.captureWarnings(capture=True)


def writes_text(log_format: str, *, terminal: bool) -> bool:
    """Tell whether lines are for people: as asked for, else where one looks at them."""
    return log_format == "text" or (log_format == "auto" and terminal)


def _host() -> str:
    import socket

    return socket.gethostname()
