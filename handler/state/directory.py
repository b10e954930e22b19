"""State in a folder: a local disk, or a volume that workers share.

A record is a folder of versions, `<key>/000001`, `<key>/000002`. A version is written aside and
then linked under its number. Linking fails where the number is taken, and is decided by the file
server: so one writer wins without any lock, on NFS as well. The version before the newest stays,
so that a writer who read it cannot take its number again. The last line of a version names the
writes before it: by that a slow writer knows whether others built on what it wrote.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import time
from typing import TYPE_CHECKING, BinaryIO

from handler.errors import StateUnavailable
from handler.state.blobs import Found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("comfyfn.state")
_ASIDE = ".aside"
_STALE_S = 3600.0
_TRIES = 8
_CHAINED = b"\n#"  # begins the last line of a version: one that has none is still being written
_CHAIN = 64


class DirectoryBlobs:
    """Blobs as files; see `Blobs` for what the methods promise.

    Args:
        folder: made where it is missing; nobody else may read it.
        links: whether the file system has hard links; `open` finds out.
    """

    def __init__(self, folder: Path, *, links: bool = True) -> None:
        self._folder = folder
        self._aside = folder / _ASIDE
        self._links = links

    def __repr__(self) -> str:
        return f"<DirectoryBlobs {self._folder}>"

    def renew(self) -> None:
        """There is no connection; documented at the port."""

    def open(self) -> None:
        """Make the folder; documented at the port."""
        with _told(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._aside.mkdir(mode=0o700, exist_ok=True)
            one = self._write_aside(b"")
            other = one.with_name(f"{one.name}-link")
            try:
                self._hard_link(one, other)
                other.unlink()
            except OSError:
                log.info(
                    "%s has no hard links: names are taken by exclusive creation", self._folder
                )
                self._links = False
            finally:
                one.unlink(missing_ok=True)

    def create(self, key: str, body: bytes) -> bool:
        """Write the first version; documented at the port."""
        with _told(self._folder):
            return self._put(self._path(key), body, 0, [])

    def replace(self, key: str, body: bytes, version: str) -> bool:
        """Write the next version; documented at the port."""
        with _told(self._folder):
            number, _, chain = version.partition(" ")
            return self._put(self._path(key), body, int(number), chain.split())

    def read(self, key: str) -> Found | None:
        """Read the newest version, or a mark; documented at the port."""
        path = self._path(key)
        with _told(self._folder):
            try:
                return Found(path.read_bytes(), "")
            except FileNotFoundError:
                return None
            except IsADirectoryError:
                return self._newest(path)

    def _newest(self, path: Path) -> Found | None:
        for attempt in range(_TRIES):
            newest = max(_versions(path), default=0)
            if newest == 0:
                return None
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: once more
                found = _found((path / _number(newest)).read_bytes(), newest)
                if found is not None:
                    return found
            time.sleep(0.01 * attempt)  # in a thread
        return self._last_whole(path)

    def _last_whole(self, path: Path) -> Found | None:
        """Pass over a version whose writer died in the middle."""
        versions = sorted(_versions(path), reverse=True)
        for version in versions:
            with contextlib.suppress(FileNotFoundError):
                found = _found((path / _number(version)).read_bytes(), versions[0])
                if found is not None:
                    return found
        return None

    def _put(self, path: Path, body: bytes, version: int, chain: list[str]) -> bool:
        if max(_versions(path), default=0) != version:
            return False
        number, nonce = version + 1, secrets.token_hex(4)
        trailer = " ".join([*chain, nonce][-_CHAIN:]).encode()
        aside = self._write_aside(body + _CHAINED + trailer + b"\n")
        try:
            if not self._take(aside, path / _number(number), make_folder=version == 0):
                return False
        finally:
            aside.unlink(missing_ok=True)
        versions = _versions(path)
        # Others are two or more ahead: either we were slow, or our number was free because it
        # had been removed already. One ahead is no question: its writer found ours, and left it.
        if any(other > number + 1 for other in versions) and not self._was_heeded(path, nonce):
            (path / _number(number)).unlink(missing_ok=True)
            return False
        for other in versions:
            if other < version:
                (path / _number(other)).unlink(missing_ok=True)
        return True

    def _was_heeded(self, path: Path, nonce: str) -> bool:
        """Tell whether the newest version builds on a write."""
        newest = self._newest(path)
        return newest is not None and nonce in newest.version.split()

    def _take(self, aside: Path, target: Path, *, make_folder: bool) -> bool:
        """Give the file its number, unless somebody has it."""
        for _ in range(_TRIES):
            if make_folder:
                _make(target.parent)
            try:
                self._link(aside, target)
                return True
            except FileExistsError:
                # An NFS server that answered too late is asked twice, and refuses the second time.
                return self._links and aside.stat().st_nlink > 1
            except FileNotFoundError:
                if not make_folder:
                    return False  # the record was removed
        return False

    def _link(self, aside: Path, target: Path) -> None:
        if self._links:
            self._hard_link(aside, target)
            return
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(aside.read_bytes())

    def _hard_link(self, path: Path, other: Path) -> None:
        os.link(path, other)

    def mark(self, key: str, body: bytes = b"") -> None:
        """Write a plain file at once; documented at the port."""
        with _told(self._folder):
            self._move_in(self._write_aside(body), self._path(key))

    def names(self, prefix: str, after: str = "", most: int = 1000) -> list[str]:
        """List files in order; documented at the port."""
        root = self._path(prefix.rstrip("/"))
        found: list[str] = []
        with _told(self._folder):
            for key in _walk(root, prefix, after):
                found.append(key)
                if len(found) == most:
                    break
        return found

    def keep(self, key: str, path: Path) -> None:
        """Link the file here, or copy it; documented at the port."""
        aside = self._aside / secrets.token_hex(8)
        with _told(self._folder):
            try:
                try:
                    # Resolved: a link to a symbolic link would be a link to a name that goes.
                    os.link(path.resolve(), aside)
                    # The engine's umask lets others read; whose file it is not, it is copied.
                    aside.chmod(0o600)
                except OSError:
                    aside.unlink(missing_ok=True)
                    shutil.copyfile(path, aside)
                    aside.chmod(0o600)
                self._move_in(aside, self._path(key))
            finally:
                aside.unlink(missing_ok=True)

    def open_file(self, key: str, first: int = 0, last: int | None = None) -> BinaryIO | None:
        """Open a file at a place; who reads counts; documented at the port."""
        del last
        with _told(self._folder):
            try:
                file = self._path(key).open("rb")
            except FileNotFoundError:
                return None
            file.seek(first)
            return file

    def remove(self, key: str) -> None:
        """Remove a file or a record, and the folders that are empty then."""
        path = self._path(key)
        with _told(self._folder):
            # The lowest first: nobody may take a number while a higher one is there.
            for version in sorted(_versions(path)):
                (path / _number(version)).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                path.unlink()
        for parent in (path, *path.parents):
            if parent == self._folder:
                break
            try:
                parent.rmdir()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:  # there is something in it
                break

    def sweep(self, now: float) -> None:
        """Remove what was written aside and never got its name; documented at the port."""
        with _told(self._folder):
            for path in self._aside.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    # The change of the inode: a linked file keeps the time of its bytes.
                    if path.stat().st_ctime < now - _STALE_S:
                        path.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / key

    def _write_aside(self, body: bytes) -> Path:
        path = self._aside / secrets.token_hex(8)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            if body:
                file.flush()
                os.fsync(file.fileno())
        return path

    def _move_in(self, aside: Path, path: Path) -> None:
        for attempt in range(_TRIES):
            _make(path.parent)
            try:
                aside.rename(path)
                return
            except FileNotFoundError:  # the folder was found empty and removed
                if attempt == _TRIES - 1:
                    raise


def _make(folder: Path) -> None:
    """Make a folder, and those above it: others remove what they find empty at the same time."""
    for attempt in range(_TRIES):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        except (FileNotFoundError, FileExistsError):
            if attempt == _TRIES - 1:
                raise


def _number(version: int) -> str:
    return f"{version:06d}"


def _found(raw: bytes, number: int) -> Found | None:
    body, mark, chain = raw.rpartition(_CHAINED)
    if not mark or not chain.endswith(b"\n"):
        return None
    return Found(body, f"{number} {chain.decode().strip()}")


def _versions(path: Path) -> list[int]:
    try:
        return [int(one.name) for one in path.iterdir() if one.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _walk(folder: Path, prefix: str, after: str) -> Iterator[str]:
    """Give the files below a folder in the order of their keys."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        key = prefix + entry.name
        if not entry.is_dir():
            if key > after:
                yield key
        elif f"{key}/" >= after[: len(key) + 1]:
            yield from _walk(folder / entry.name, f"{key}/", after)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateUnavailable(
            f"state cannot be kept: {error.strerror or type(error).__name__}",
            hint=f"is {folder} there, writable, and is there space left?",
        ) from error
