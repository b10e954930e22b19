"""Where downloads of the store happen: a folder for each URL, which lasts until the file is in."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING

from handler.models.names import url_id, url_suffix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

log = logging.getLogger("comfyfn.models")

_POLL_S = 0.2
_LOCK = ".lock"
_KEPT_S = 7 * 86400.0


class Incoming:
    """The folders of what is on its way.

    One is locked while its file comes: another worker that wants the same waits, and then finds
    it in the store. What a killed process left in one is taken up by the next download.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "incoming"
        self._promised: dict[Path, int] = {}

    def target(self, url: str) -> Path:
        """Give where a URL is to be downloaded to; the same each time, so that it can resume."""
        return self.root / url_id(url) / f"model{url_suffix(url)}"

    @contextlib.asynccontextmanager
    async def locked(self, folder: Path) -> AsyncIterator[None]:
        """Have a folder alone for the time of a block; after it, remove it if it is empty.

        Raises:
            OSError: it cannot be made.
        """
        # Asked again and again: whoever has it may be another process.
        while (fd := _lock(folder)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self._promised[folder] = 0
        try:
            yield
        finally:
            del self._promised[folder]
            with contextlib.suppress(OSError):
                if {path.name for path in folder.iterdir()} <= {_LOCK}:
                    shutil.rmtree(folder)
            os.close(fd)

    def promise(self, folder: Path, count: int) -> bool:
        """Note how many bytes will still come into a folder; False where it is none of ours."""
        if folder not in self._promised:
            return False
        self._promised[folder] = _used(folder) + count
        return True

    def promised(self, folder: Path) -> int:
        """Give how large the file of a folder will be, in bytes."""
        return self._promised[folder]

    def bytes(self) -> int:
        """Count what is here and what will come. Blocking, short."""
        return sum(max(_used(path), self._promised.get(path, 0)) for path in self._folders())

    def clear(self, older_than_s: float = 0.0) -> int:
        """Remove what nobody is fetching, and give how many bytes that were. Blocking."""
        freed = 0
        limit = time.time() - older_than_s
        for folder in self._folders():
            if folder in self._promised or _changed(folder) > limit:
                continue
            fd = _lock(folder)
            if fd is not None:
                freed += _used(folder)
                log.info("removing the beginning of a download that nobody went on with")
                shutil.rmtree(folder, ignore_errors=True)
                os.close(fd)
        return freed

    def clear_stale(self) -> None:
        """Remove what was left a week ago. Blocking."""
        self.clear(_KEPT_S)

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.root.iterdir() if path.is_dir()]
        except OSError:
            return []


def _lock(folder: Path) -> int | None:
    """Make a folder and lock it; None while somebody else has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None  # whoever had it removed it just now
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.fstat(fd).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        same = False
    except OSError:
        same = True  # a file system without locks: then each worker is on its own
    if same:
        return fd
    os.close(fd)
    return None


def _used(folder: Path) -> int:
    """Count the bytes on disk below a folder: a file that comes in parts has holes."""
    count = 0
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            if path.suffix != ".note":  # small, and gone when the file is whole
                with contextlib.suppress(OSError):
                    count += path.lstat().st_blocks * 512
    return count


def _changed(folder: Path) -> float:
    times = [0.0]
    with contextlib.suppress(OSError):
        times += [path.lstat().st_mtime for path in folder.iterdir()]
    return max(times)
