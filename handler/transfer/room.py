"""Does a file fit the disk, with all the others that are still coming."""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING

from handler.errors import HandlerError, InternalFault
from handler.transfer.base import DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from handler.transfer.part import Part

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Room:
    """The promises made of each disk.

    Args:
        spare: bytes that must stay free.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._coming: dict[Part, tuple[int, int]] = {}

    @contextlib.contextmanager
    def kept(self, part: Part, size: int, shown: str) -> Iterator[None]:
        """Keep room for the rest of a file for the time of a block.

        Raises:
            DiskFull: what is free, less what others will need, is not enough.
        """
        folder = part.path.parent
        device = folder.stat().st_dev
        free = shutil.disk_usage(folder).free
        others = self._promised(device)
        need = size - part.covered()
        if need + others + self._spare > free:
            raise _full(folder, shown, need, free, others)
        self._coming[part] = (device, size)
        try:
            yield
        finally:
            del self._coming[part]

    def possible(self, part: Part, count: int, shown: str) -> None:
        """Make sure that bytes fit the disk if all else goes.

        Raises:
            DiskFull: the disk is smaller than that.
        """
        disk = shutil.disk_usage(part.path.parent)
        if count > disk.total:
            raise _full(part.path.parent, shown, count, disk.free, 0)

    def check(self, part: Part, shown: str) -> None:
        """Make sure that there is room for more of a file whose size nobody tells. Blocking.

        Raises:
            DiskFull: what must stay free, or others will need, is reached.
        """
        folder = part.path.parent
        free = shutil.disk_usage(folder).free
        others = self._promised(folder.stat().st_dev)
        if free < others + self._spare:
            raise _full(folder, shown, part.covered(), free, others)

    def _promised(self, device: int) -> int:
        """Count the bytes that are still coming to a disk; from any thread."""
        return sum(
            max(0, whole - part.covered())
            for part, (where, whole) in tuple(self._coming.items())
            if where == device
        )


def _full(folder: Path, shown: str, need: int, free: int, others: int) -> DiskFull:
    promised = f", {_mb(others)} of it promised to other downloads" if others else ""
    return DiskFull(
        f"{shown} needs {_mb(need)} and does not fit: {_mb(free)} are free{promised}",
        hint="free some space, use a larger disk, or set LRU_CACHE_SIZE_GB so that old files go",
        details={"needed": need, "free": free, "promised": others, "folder": folder.name},
    )


def is_storing_fault(fault: OSError) -> bool:
    """Tell a full disk from other faults."""
    return fault.errno in _FULL


def storing_fault(fault: OSError, shown: str) -> HandlerError:
    """Turn a fault of the disk into ours."""
    if is_storing_fault(fault):
        return DiskFull(
            f"{shown} cannot be stored: {fault.strerror}",
            hint="free some space or use a larger disk",
        )
    return InternalFault(f"{shown} cannot be stored: {fault.strerror or type(fault).__name__}")


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
