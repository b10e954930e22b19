"""A file while it comes: its bytes under a temporary name, and a note of which are there.

Both lie beside the file that is to be: `.<name>.<key>.part` and `.<name>.<key>.note`. After the
process was killed the next one reads the note and fetches the rest. The key is made of a hash of
the URL; the URL itself may hold secrets and is in neither.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

from handler.transfer.spans import Spans

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("comfyfn.transfer")

NOTE_EVERY = 4 << 20
"""Bytes that may come before they are noted."""

BROUGHT = "brought"
"""How the name of a folder ends in which somebody else brings the file: `.<name>.<key>.*`."""

_LONGEST_NAME = 255
_LONGER = 12  # that the name of such a folder is than the part's, at most
_KEY_LENGTH = 16
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})
# The note is written over itself in one call: padded, so that a shorter one leaves no tail.
_NOTE_BYTES = 4096


class Part:
    """The temporary file of one download, locked against other processes.

    Attributes:
        path: where the bytes are.
        etag, size: of the file that the bytes are of; None when not known.
        spans: which bytes are there.
    """

    def __init__(self, target: Path, url: str, path: Path, fd: int) -> None:
        self.path = path
        self.etag: str | None = None
        self.size: int | None = None
        self.spans = Spans()
        self._fd = fd
        self._url_hash = _hash(url)
        self._note_path = path.with_suffix(".note")
        self._whole_path = path.with_suffix(".whole")
        self._target = target
        self._note_fd = os.open(self._note_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._unnoted = 0
        self._gone = False
        self._lock = threading.Lock()
        self._read_note()

    @classmethod
    def locked(cls, target: Path, url: str) -> Part | None:
        """Open the part of a target, or make it; None while somebody else has it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = part_path(target, url)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(fd)
            # Whoever had it may have published or removed it: then this is no longer its name.
            if os.fstat(fd).st_ino != path.stat().st_ino:
                raise FileNotFoundError
            return cls(target, url, path, fd)
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise

    def begin(self, etag: str | None, size: int | None) -> None:
        """Forget what is there and begin with another version of the file."""
        with self._lock:
            self.etag, self.size = etag, size
            self.spans = Spans()
            self._write_note()
        os.ftruncate(self._fd, 0)

    def write(self, at: int, data: memoryview) -> None:
        """Write bytes at their place, and note them every few megabytes; from any thread.

        Raises:
            OSError: the disk is full, or gone.
        """
        length = len(data)
        done = 0
        while done < length:
            done += os.pwrite(self._fd, data[done:], at + done)
        with self._lock:
            self.spans.add(at, at + length)
            self._unnoted += length
            # Counted over all parts together, so each one is noted at least as often.
            if self._unnoted >= NOTE_EVERY:
                self._write_note()

    def read(self, at: int, buffer: memoryview) -> int:
        """Read bytes back; 0 at the end of what is there."""
        return os.preadv(self._fd, [buffer], at)

    def covered(self) -> int:
        """Count the bytes that are there; from any thread."""
        with self._lock:
            return self.spans.covered()

    def prefix(self) -> int:
        """Count the bytes that are there without a hole before them; from any thread."""
        with self._lock:
            return self.spans.prefix()

    def missing(self, size: int) -> list[tuple[int, int]]:
        """Give the runs that are still to come."""
        with self._lock:
            return self.spans.missing(size)

    def length(self) -> int:
        """Give the length of the file on disk, in bytes."""
        return os.fstat(self._fd).st_size

    def note(self) -> None:
        """Note what is there now."""
        with self._lock:
            self._write_note()

    def publish(self) -> None:
        """Give the file its final name, over one that has it already; the note goes."""
        self._note_path.unlink(missing_ok=True)
        if self._whole_path.exists():
            self._whole_path.replace(self._target)
        else:
            self.path.replace(self._target)
            self._gone = True
        self.discard()

    def discard(self) -> None:
        """Remove the bytes and the note."""
        self.spans = Spans()
        if self._gone:
            return  # somebody else may have the name by now
        self._gone = True
        self._note_path.unlink(missing_ok=True)
        self._whole_path.unlink(missing_ok=True)
        # The last one: it is the lock of the others.
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; what is on disk stays, unless there is nothing worth it."""
        if self._gone or not self.covered():
            self.discard()
        else:
            self.note()
        os.close(self._note_fd)
        os.close(self._fd)

    def whole(self) -> Path:
        """Give the name under which somebody else may put the whole file; nothing is there yet.

        Another one than that of the bytes: that name is the lock.
        """
        self._whole_path.unlink(missing_ok=True)
        _remove_brought(self.path)  # of a process that was killed
        return self._whole_path

    def _read_note(self) -> None:
        try:
            note = json.loads(os.pread(self._note_fd, _NOTE_BYTES, 0))
            size = int(note["size"])
            spans = Spans((int(start), int(end)) for start, end in note["done"])
            if note["url_sha256"] == self._url_hash and self.length() >= _end(spans):
                self.etag, self.size, self.spans = note["etag"], size, spans
        except (ValueError, KeyError, TypeError):
            return  # no note, or one of another make: the download begins anew

    def _write_note(self) -> None:
        self._unnoted = 0
        note = {
            "url_sha256": self._url_hash,
            "etag": self.etag,
            "size": self.size,
            "done": self.spans.as_list(),
        }
        text = json.dumps(note).encode()
        if len(text) <= _NOTE_BYTES:
            os.pwrite(self._note_fd, text.ljust(_NOTE_BYTES), 0)


def part_path(target: Path, url: str) -> Path:
    """Give the temporary name for a target, short enough for every file system."""
    ending = f".{_hash(url)[:_KEY_LENGTH]}.part"
    most = _LONGEST_NAME - len(ending) - 1 - _LONGER
    stem = target.name.encode()[:most].decode(errors="ignore")
    return target.with_name(f".{stem}{ending}")


def _lock(fd: int) -> None:
    """Lock a file, where its file system has locks at all: without, each process is on its own.

    Raises:
        BlockingIOError: somebody else has it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            raise
        log.debug("no locks here: %s", fault.strerror)


def remove_stale_parts(folder: Path, older_than_s: float, now: float | None = None) -> list[Path]:
    """Remove parts in a folder that nobody took up for a while, and give their paths. Blocking."""
    limit = (time.time() if now is None else now) - older_than_s
    removed = []
    for path in folder.glob(f".*.{'?' * _KEY_LENGTH}.part"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < limit and _removed(path):
                removed.append(path)
    return removed


def _removed(path: Path) -> bool:
    """Remove a part and what belongs to it, unless somebody has it."""
    # Open for writing: NFS gives the lock to no other. Held to the end: nobody takes it up.
    with path.open("r+b") as file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            return False
        for suffix in (".note", ".whole"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        _remove_brought(path)
        path.unlink()
    return True


def _remove_brought(path: Path) -> None:
    for folder in path.parent.glob(f"{glob.escape(path.stem)}.*.{BROUGHT}"):
        shutil.rmtree(folder, ignore_errors=True)


def _end(spans: Spans) -> int:
    return max((end for _, end in spans.as_list()), default=0)


def _hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
