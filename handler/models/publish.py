"""Puts an object into a model folder: a hard link, or a symbolic one to another disk.

A name that has other bytes is never given to ours: the engine may have loaded them by it.
"""

from __future__ import annotations

import errno
import filecmp
import logging
import os
from typing import TYPE_CHECKING

from handler.errors import CallerError, InternalFault

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from handler.models.item import Item

log = logging.getLogger("comfyfn.models")

_TRIES = 5
MOST_LINKS = 16
# Another disk, or one that has no hard links, no more of them, or none to this file.
_NO_HARD_LINK = frozenset(
    (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
)


class NameTaken(CallerError):
    """The name in the model folder is that of another file."""

    code = "name_taken"
    status = 409


class TooManyNames(CallerError):
    """A model has more names than anybody needs: each makes the engine's lists longer."""

    code = "too_many_names"
    status = 409


def link(item: Item, target: Path) -> bool:
    """Make `target` lead to an item's file. Blocking: two large files may be compared.

    Returns:
        Whether it is a link to the item; False where the same bytes were there already.

    Raises:
        NameTaken: another file is there.
        TooManyNames: the item has as many links in that folder as it may have.
        InternalFault: the folder cannot be written, or the object vanished.
    """
    there = {path for path in item.links if path.parent == target.parent}
    if len(there) >= MOST_LINKS and target not in there:
        raise TooManyNames(
            f"{item.leaf} has {len(there)} names in {target.parent.name} already",
            hint="use one of them",
            details={"names": sorted(path.name for path in there)},
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            if _linked(item.path, target):
                return True
            if _vanished(target):
                continue
            return _leads_to(item, target)
    except OSError as fault:
        gone = not item.path.exists()
        why = "the file vanished from the cache" if gone else fault.strerror
        raise InternalFault(
            f"{target.name} cannot be put into {target.parent.name}: {why}", retryable=gone
        ) from fault
    raise InternalFault(f"{target.name} comes and goes in {target.parent.name}", retryable=True)


def _linked(path: Path, target: Path) -> bool:
    """Make the link; False where the name is taken. Both ways never replace what is there."""
    try:
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError as fault:
            if fault.errno not in _NO_HARD_LINK:
                raise
            path.stat()  # a symbolic link would be made to nothing as well
            target.symlink_to(path)
    except FileExistsError:
        return False
    return True


def _vanished(target: Path) -> bool:
    """Remove a dangling symbolic link; tell whether the name is free now."""
    if target.exists():
        return False
    if target.is_symlink():
        log.info("%s led nowhere, and is replaced", target)
        target.unlink(missing_ok=True)
    return True


def _leads_to(item: Item, target: Path) -> bool:
    """Look at what is there.

    Raises:
        NameTaken: other bytes, or no file.
    """
    status = target.stat()
    if (status.st_dev, status.st_ino) == item.inode:
        return True
    if not target.is_file() or status.st_size != item.bytes:
        raise _taken(target)
    if not filecmp.cmp(item.path, target, shallow=False):
        raise _taken(target)
    return False


def taken_elsewhere(searched: Iterable[Path], target: Path, content: Path) -> Path | None:
    """Look for a name in the other folders that are searched together with its own. Blocking.

    A second file of that name would stand before the first, or behind it.

    Args:
        searched: the folders, as the engine searches them.
        target: where the name is to be, in one of them.
        content: the bytes that it is to have.

    Returns:
        Where the same bytes have that name already; None where nothing has it.

    Raises:
        NameTaken: other bytes have it.
    """
    own = next((folder for folder in searched if target.is_relative_to(folder)), target.parent)
    name = target.relative_to(own)
    for other in (folder / name for folder in searched if folder != own):
        if not other.exists():
            continue
        same = other.is_file() and other.stat().st_size == content.stat().st_size
        if not same or not filecmp.cmp(content, other, shallow=False):
            raise _taken(other)
        return other
    return None


def _taken(target: Path) -> NameTaken:
    return NameTaken(
        f"{target.parent.name}/{target.name} is there already, with other content",
        hint="give another `filename`",
    )
