"""How many snapshots in a row were restored and were of no use, in a file that outlives us."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("comfyfn.modal")
MOST = 2
"""After so many in a row nothing is restored any more, until the file is gone or the image new."""


class Restores:
    """The count, read anew each time: other containers have the same file.

    Args:
        file: None where nothing is to be remembered beyond this process.
        image: of what was restored; counts of another one are not ours.
    """

    def __init__(self, file: Path | None, image: str) -> None:
        self._file = file
        self._image = image
        self._here = 0

    def __repr__(self) -> str:
        return f"<Restores {self._file}: {self.failures} failed>"

    @property
    def failures(self) -> int:
        """How many have failed since the last that passed."""
        return int(self._read().get("failures", 0 if self._file is not None else self._here))

    @property
    def given_up(self) -> bool:
        """Whether a plain boot is due at once."""
        return self.failures >= MOST

    @property
    def said(self) -> str:
        """Why nothing is restored, for people."""
        why = self._read().get("error", "")
        return f"{self.failures} restores in a row have failed ({why}); remove {self._file}"

    def failed(self, why: str) -> int:
        """Note that one has; tell how many that makes."""
        count = self.failures + 1
        self._write({"image": self._image, "failures": count, "error": why, "at": time.time()})
        return count

    def passed(self) -> None:
        """Note that one has; the disk is left alone where none has failed."""
        if self.failures:
            self._write({"image": self._image, "failures": 0, "at": time.time()})

    def _read(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(self._file.read_bytes())
            if isinstance(told, dict) and told.get("image") == self._image:
                count = told.get("failures")
                return told if isinstance(count, int) and count >= 0 else {}
        return {}

    def _write(self, told: dict[str, Any]) -> None:
        self._here = told["failures"]
        if self._file is None:
            return
        part = self._file.with_name(f".{self._file.name}.{secrets.token_hex(4)}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(json.dumps(told).encode())
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._file)
        except OSError as fault:
            log.warning("failed restores are not counted: %s: %s", self._file, fault.strerror)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
