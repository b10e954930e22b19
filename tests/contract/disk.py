"""What is on the disk, read while a server works there."""

from __future__ import annotations

import os
import time
from pathlib import Path

STATE = "/.local/state/comfyfn"


def files_below(*roots: Path) -> set[Path]:
    """List the files below some folders.

    Logs and bytecode, which come and go, are left out, and what is remembered of jobs, but for the
    outputs that are kept with it.
    """
    return {
        Path(folder, name)
        for root in roots
        # Unlike rglob, walk does not mind folders that go while it looks.
        for folder, _, names in os.walk(root)
        if STATE not in folder or "/outputs/" in folder
        for name in names
        if not name.endswith((".log", ".pyc"))
    }


def assert_nothing_new(before: set[Path], *roots: Path, limit_s: float = 5.0) -> None:
    """Wait until no file is there that was not before: a job's go once the last byte is sent."""
    deadline = time.monotonic() + limit_s
    while (new := files_below(*roots) - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not new
