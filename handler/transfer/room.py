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
        others = sum(
            max(0, whole - other.covered())
            for other, (where, whole) in self._coming.items()
            if where == device
        )
        need = size - part.covered()
        if need + others + self._spare > free:
            raise _full(folder, shown, need, free, others)
        self._coming[part] = (device, size)
        try:
            yield
        finally:
            del self._coming[part]


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
