"""Which objects somebody needs now: those stay, whatever the budget says.

A pin is also a shared lock on the object's file, so that another process with the same folder,
such as `comfyfn models`, leaves it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from handler.models.item import Item


# Each is a file held open, and callers may name as many models as they like.
MOST_LOCKS = 256


class Pins:
    """Who needs what, counted."""

    def __init__(self) -> None:
        self._owners: dict[Item, Counter[Hashable]] = {}
        self._locks: dict[Item, int] = {}

    def __contains__(self, item: Item) -> bool:
        return item in self._owners

    def pin(self, item: Item, owner: Hashable) -> bool:
        """Keep an item for an owner, once more; False where its file is gone. Blocking, short."""
        owners = self._owners.get(item)
        if owners is None:
            if not self._lock(item):
                return False
            owners = self._owners[item] = Counter()
        owners[owner] += 1
        return True

    def spread(self, item: Item, other: Item) -> None:
        """Keep another item for all who need this one."""
        for owner in list(self._owners.get(item, ())):
            self.pin(other, owner)

    def unpin(self, item: Item, owner: Hashable) -> None:
        """Take one pin of an owner back, if there is one."""
        owners = self._owners.get(item)
        if owners is None or not owners[owner]:
            return
        owners[owner] -= 1
        if not +owners:
            self._let_go(item)

    def release(self, owner: Hashable) -> None:
        """Take all pins of an owner back."""
        for item, owners in list(self._owners.items()):
            del owners[owner]
            if not +owners:
                self._let_go(item)

    def clear(self) -> None:
        """Take all pins back."""
        for item in list(self._owners):
            self._let_go(item)

    @contextlib.contextmanager
    def free(self, item: Item) -> Iterator[bool]:
        """Tell whether nobody needs an item; while the block runs nobody can begin to."""
        if item in self._owners:
            yield False
            return
        try:
            fd = _opened(item)
        except OSError:
            yield True  # it is gone already
            return
        try:
            yield _locked(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    def _lock(self, item: Item) -> bool:
        if len(self._locks) >= MOST_LOCKS:
            return item.present()
        try:
            fd = _opened(item)
        except FileNotFoundError:
            return False
        except OSError:
            return item.present()
        if not _locked(fd, fcntl.LOCK_SH) or not item.present():
            os.close(fd)
            return False
        self._locks[item] = fd
        return True

    def _let_go(self, item: Item) -> None:
        self._owners.pop(item, None)
        fd = self._locks.pop(item, None)
        if fd is not None:
            os.close(fd)


def _opened(item: Item) -> int:
    try:
        return os.open(item.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:
        return os.open(item.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: then each process is on its own
    return True
