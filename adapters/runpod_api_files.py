"""The queue of the request API on disk: what came, and what came of it.

A restarted server goes on with what was waiting, as RunPod hands a job out again whose worker was
lost. Results lie here, and not in memory, until their time is over.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from handler.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("comfyfn.runpod")
_KINDS = ("job", "request", "result")


class JobFiles:
    """Three files for each job; all calls may block.

    Args:
        folder: of one server; where another process has it, a temporary one is taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[bytes] | None = None
        self._temporary = False
        self._noting = threading.Lock()

    def __repr__(self) -> str:
        return f"<JobFiles {self._folder}>"

    def open(self) -> None:
        """Take the folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self._folder / "lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            log.warning("%s cannot be used (%s): the queue ends with the server", self, fault)
            self._close_lock()
            self._folder, self._temporary = Path(tempfile.mkdtemp(prefix="comfyfn-runpod-")), True

    def close(self) -> None:
        """Let go of it."""
        self._close_lock()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _close_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take(self, job_id: str, facts: dict[str, Any], request: dict[str, Any]) -> None:
        """Keep a job that came.

        Raises:
            StateUnavailable: it cannot be kept.
        """
        try:
            self._write(job_id, "request", request)
            self._write(job_id, "job", facts)  # last: this makes it a job
        except OSError as fault:
            self.remove(job_id)
            raise StateUnavailable(
                f"the job cannot be kept: {fault.strerror}", hint="check STATE_DIR and its space"
            ) from fault

    def note(self, job_id: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Keep how a job is.

        Args:
            facts: asked when it is written: of two that note it at once, none keeps what was.

        Raises:
            OSError: it cannot be kept.
        """
        with self._noting:
            self._write(job_id, "job", facts())

    def keep(self, job_id: str, result: dict[str, Any]) -> None:
        """Keep a result.

        Raises:
            OSError: it cannot be kept.
        """
        self._write(job_id, "result", result)

    def request(self, job_id: str) -> dict[str, Any]:
        """Give what was asked for.

        Raises:
            OSError: it is not kept.
        """
        found: dict[str, Any] = orjson.loads(self._path(job_id, "request").read_bytes())
        return found

    def result(self, job_id: str) -> bytes:
        """Give a result as JSON; an empty object for none."""
        with contextlib.suppress(OSError):
            return self._path(job_id, "result").read_bytes()
        return b"{}"

    def drop_result(self, job_id: str) -> None:
        """Forget the result alone."""
        self._path(job_id, "result").unlink(missing_ok=True)

    def drop_request(self, job_id: str) -> None:
        """Forget what was asked for, and nothing else."""
        self._path(job_id, "request").unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Forget a job."""
        for kind in _KINDS:
            with contextlib.suppress(OSError):
                self._path(job_id, kind).unlink()

    def left(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the jobs of an earlier server, id and facts."""
        for path in self._folder.glob("*.job"):
            try:
                facts: Any = orjson.loads(path.read_bytes())
            except (OSError, ValueError):
                facts = None
            if isinstance(facts, dict):
                yield path.stem, facts
            else:
                self.remove(path.stem)

    def _path(self, job_id: str, kind: str) -> Path:
        return self._folder / f"{job_id}.{kind}"

    def _write(self, job_id: str, kind: str, content: dict[str, Any]) -> None:
        path = self._path(job_id, kind)
        part = path.with_suffix(f".{kind}-part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - its mode is set: it has secrets
            file.write(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS))
        part.replace(path)
