"""The SHA-256 of a file, remembered beside it: gigabytes are not read again at every start.

The note lies in the file's own folder, as `.<name>.sha256`: it goes with a volume, and into an
image. It counts as long as the file has the size and the time of change that are noted. Its number
on the disk is not among them: that is another one on every machine that unpacks an image.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from pathlib import Path

_BLOCK = 4 << 20
_SECOND = 1_000_000_000
_LONGEST_NAME = 255


def note_path(path: Path) -> Path:
    """Give the note's place, with a name short enough for every file system."""
    ending = ".sha256"
    stem = path.name.encode()[: _LONGEST_NAME - len(ending) - 1].decode(errors="ignore")
    return path.with_name(f".{stem}{ending}")


def remember(path: Path, sha256: str) -> None:
    """Note the hash that a file has now; where nothing can be written it is not noted."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        note_path(path).write_text(f"{sha256} {stat.st_size} {stat.st_mtime_ns}\n")


def remembered(path: Path) -> str | None:
    """Give the hash that was noted; None where there is none, or the file has changed since."""
    try:
        sha256, size, changed_ns = note_path(path).read_text().split()
        stat = path.stat()
        same = int(size) == stat.st_size and _same_time(int(changed_ns), stat)
    except (OSError, ValueError):
        return None
    return sha256 if same else None


def _same_time(noted_ns: int, stat: os.stat_result) -> bool:
    # The layers of an image keep whole seconds.
    return stat.st_mtime_ns in (noted_ns, noted_ns - noted_ns % _SECOND)


async def sha256_of(path: Path) -> str:
    """Read a file whole and give its hash, hexadecimal; when cancelled the reading ends.

    Raises:
        OSError: it cannot be read.
    """
    stopped = threading.Event()
    try:
        return await asyncio.to_thread(_digest, path, stopped)
    except asyncio.CancelledError:
        stopped.set()
        raise


def _digest(path: Path, stopped: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while not stopped.is_set() and (count := file.readinto(buffer)):
            digest.update(buffer[:count])
    return digest.hexdigest()
