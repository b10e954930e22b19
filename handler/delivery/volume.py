"""`volume`: a folder of a mounted disk that the operator allowed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from handler.delivery.base import PutFailed, Stored, not_configured, shorter
from handler.transfer.room import is_storing_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from handler.delivery.base import Progress, Upload
    from handler.targets import VolumeTarget
    from handler.transfer.threads import Threads

_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class VolumeUploader:
    """Copies files onto the disk; each appears whole under its name, or not at all.

    Below the allowed folder no link is followed: whoever can write there could lead a copy
    elsewhere.

    Args:
        roots: ALLOW_VOLUMES.
        reserved: folders that are not meant, although they may lie below.
    """

    kind = "volume"
    waits = False
    own_credentials = False
    secrets: Sequence[str] = ()

    def __init__(
        self,
        target: VolumeTarget,
        roots: Sequence[Path],
        threads: Threads,
        *,
        reserved: Sequence[Path] = (),
    ) -> None:
        self._path = Path(target.path)
        self._reserved = reserved
        self._roots = roots
        self._threads = threads

    def location(self, key: str) -> str:
        """Give the path; documented at the port."""
        return str(self._path / key.lstrip("/"))

    async def check(self) -> None:
        """Find the allowed folder; documented at the port."""
        if not self._roots:
            raise not_configured(
                "volume",
                "no folder may be written to",
                "the operator names the mounted folders in ALLOW_VOLUMES",
            )
        root = self._root()
        if root is None:
            raise not_configured(
                "volume",
                f"{self._path} is in none of the folders that may be written to",
                f"ALLOW_VOLUMES has {', '.join(map(str, self._roots))}",
            )
        if not root.is_dir():
            raise not_configured(
                "volume", f"{root} is not there", "the operator mounts the volume that is meant"
            )

    def _root(self) -> Path | None:
        return next((root for root in self._roots if self._path.is_relative_to(root)), None)

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Copy the file, in a thread; documented at the port."""
        left = threading.Event()
        await self._threads.call(lambda: self._copy(item, progress, left), abort=left.set)
        where = self.location(item.key)
        return Stored(where, where)

    def _copy(self, item: Upload, progress: Progress, left: threading.Event) -> None:
        root = self._root()
        assert root is not None
        inner = self._path.relative_to(root) / item.key.lstrip("/")
        if ".." in inner.parts or not inner.name:
            raise PutFailed(
                f"{item.key} is no path inside of the volume", passing=False, whose="place"
            )
        # No link is followed below the root: what is named is what is written.
        place = root.resolve() / inner
        if any(place.is_relative_to(folder.resolve()) for folder in self._reserved):
            raise PutFailed(
                "this worker keeps its state there",
                passing=False,
                hint="name another folder",
                whose="place",
            )
        try:
            with item.path.open("rb") as source, _folder(root, inner.parts[:-1]) as folder:
                _publish(source.fileno(), folder, inner.name, item.size, progress, left)
        except OSError as fault:
            raise _fault(fault) from fault

    async def close(self) -> None:
        """Nothing is open; documented at the port."""


@contextlib.contextmanager
def _folder(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Open a folder below the root, made where it is missing, step by step and past no link."""
    opened = os.open(root.resolve(), _FOLDER)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=opened)
                os.fsync(opened)
            inner = os.open(part, _FOLDER, dir_fd=opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


def _publish(
    source: int, folder: int, name: str, size: int, progress: Progress, left: threading.Event
) -> None:
    """Write beside, then give it the name: nobody sees half of a file."""
    part = f".{uuid.uuid4().hex}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    out = os.open(part, flags, 0o644, dir_fd=folder)
    try:
        try:
            _pour(source, out, size, progress, left)
            os.fsync(out)
        finally:
            os.close(out)
        if _is_folder(folder, name):
            raise IsADirectoryError(errno.EISDIR, "a folder has that name")
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    with contextlib.suppress(OSError):  # some network file systems have no such thing
        os.fsync(folder)


def _pour(source: int, out: int, size: int, progress: Progress, left: threading.Event) -> None:
    sent = 0
    while sent < size:
        if left.is_set():
            raise PutFailed("the upload was ended", passing=False, whose="worker")
        count = os.sendfile(out, source, sent, min(_BLOCK, size - sent))
        if not count:
            raise shorter(sent, size)
        sent += count
        progress(sent)


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _fault(fault: OSError) -> PutFailed:
    if is_storing_fault(fault):
        return PutFailed(
            f"the volume is full: {fault.strerror}",
            passing=False,
            code="disk_full",
            hint="free some space on the volume, then have the outputs delivered again",
            whose="worker",
        )
    if fault.errno in {errno.ELOOP, errno.ENOTDIR}:
        return PutFailed(
            "a link or a file stands where a folder should be",
            passing=False,
            hint="below the folders of ALLOW_VOLUMES no links are followed",
            whose="place",
        )
    if fault.errno in {errno.EISDIR, errno.ENAMETOOLONG}:
        return PutFailed(str(fault.strerror), passing=False, whose="place")
    return PutFailed(
        fault.strerror or type(fault).__name__, passing=fault.errno in {errno.EIO, errno.ESTALE}
    )
