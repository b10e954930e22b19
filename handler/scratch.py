"""Our scratch folder, and the removal of those whose server was killed.

A server holds a lock on its folder. The kernel lets go of it however the server ends, and it is
seen by other containers that share the place, where a process id says nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("comfyfn.scratch")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Scratch:
    """A folder of ours alone.

    Attributes:
        path: where it is.
        lock: the descriptor that holds its lock; None where the file system has no locks.
    """

    path: Path
    lock: int | None

    def close(self) -> None:
        """Remove the folder, then let go of it; more than once is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self.lock = self.lock, None
        if lock is not None:
            os.close(lock)


def make_scratch(base: Path | None) -> Scratch:
    """Make a new folder and lock it.

    Args:
        base: where it shall lie; the system's temporary folder by default.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=base))
        try:
            lock = _lock(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # a sweep came between the two lines
        except OSError:
            return Scratch(path, None)  # where we cannot lock, no sweep can either
        if path.is_dir():
            return Scratch(path, lock)
        os.close(lock)


def sweep_stale(base: Path | None) -> None:
    """Remove the folders of servers that were killed; those of living ones are left alone."""
    for folder in Path(base or tempfile.gettempdir()).glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):  # held by its server, not ours, or gone meanwhile
            lock = _lock(folder)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    log.info("removing %s: its server is gone", folder)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _lock(folder: Path) -> int:
    """Give a descriptor that holds the folder's lock.

    Raises:
        BlockingIOError: another one does.
        OSError: there is no such folder, or it cannot be locked.
    """
    handle = os.open(folder, _OPEN)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _prefix() -> str:
    """Begin our folders' names, by the running kernel.

    On a network volume, a lock that another host holds may not be seen from here.
    """
    kernel = os.uname().nodename
    with contextlib.suppress(OSError):  # the same in all containers on this kernel
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"comfyfn-{kernel[:8]}-"
