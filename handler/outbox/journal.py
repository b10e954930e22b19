"""The outbox's folders.

    at-<random>/   the letters of one process, which holds a lock on the folder
    dead/          letters that are not tried any more, of all processes

A promise is a letter that its process leaves alone: it is for whoever finds it when that is gone.

A folder that nobody holds is taken over by whoever sees it first: a letter is claimed by moving
its file, so only one can. That is how a new start finds what the last one left, how workers that
share a volume stand in for each other, and how the command line hands letters to a server.

Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from handler.outbox.letter_file import (
    BrokenLetter,
    note,
    open_letter,
    read_posted,
    sync_folder,
    write_letter,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.outbox.records import Letter, Opened, Posted
    from handler.outbox.sealed import Seal

log = logging.getLogger("comfyfn.outbox")
_OWN = "at-"
_DEAD = "dead"
_ID = re.compile(r"\d{20}-[\da-f]{8}")


class Journal:
    """Letters as files.

    Args:
        folder: the outbox's, made where it is missing.
        seal: hides what is secret; None without WEBHOOK_SECRET.
    """

    def __init__(self, folder: Path, seal: Seal | None) -> None:
        self._folder = folder
        self._seal = seal
        self._dead = folder / _DEAD
        self._own: Path | None = None
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<Journal {self._folder} {'open' if self._own else 'closed'}>"

    def open(self) -> None:
        """Make a folder for this process, and hold it.

        Raises:
            OSError: the place cannot be written.
        """
        for folder in (self._folder, self._dead):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._own is None:
            own = Path(tempfile.mkdtemp(prefix=_OWN, dir=self._folder))
            try:
                self._lock = _hold(own)
            except (BlockingIOError, FileNotFoundError):
                continue  # taken over for an abandoned one between the two lines
            except OSError:
                self._lock = None  # no locks here; then nobody can take it over while it lives
            if own.is_dir():
                self._own = own
            elif self._lock is not None:
                os.close(self._lock)

    @property
    def is_open(self) -> bool:
        """Whether letters can be written."""
        return self._own is not None

    def close(self) -> None:
        """Let go of the folder: whatever is in it is for the next process."""
        own, self._own = self._own, None
        lock, self._lock = self._lock, None
        if own is not None:
            with contextlib.suppress(OSError):  # there are letters in it
                own.rmdir()
        if lock is not None:
            os.close(lock)

    def adopt(self, *, lockless: bool = False) -> list[Posted]:
        """Take over the letters of processes that are gone, oldest first, promises last.

        Args:
            lockless: also where the file system has no locks to tell by: right at a start, when
                it is more likely than not that the other process is gone.
        """
        taken: list[Posted] = []
        for folder in self._folder.glob(f"{_OWN}*"):
            if folder == self._own:
                continue
            lock = None
            try:
                lock = _hold(folder)
            except (BlockingIOError, FileNotFoundError):
                continue
            except OSError:
                if not lockless:
                    continue
            try:
                taken += self._take_over(folder)
            finally:
                if lock is not None:
                    os.close(lock)
        return sorted(taken, key=lambda letter: letter.age_key)

    def _take_over(self, folder: Path) -> list[Posted]:
        taken = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # its writer died in the middle
                continue
            with contextlib.suppress(FileNotFoundError):
                letter = self._read(path)
                if letter is not None:
                    path.rename(self._mine / path.name)
                    taken.append(letter)
        sync_folder(self._mine)
        with contextlib.suppress(OSError):
            folder.rmdir()
        return taken

    def _read(self, path: Path) -> Posted | None:
        """Read a letter; one that cannot be is put aside among the dead."""
        try:
            return read_posted(path)
        except BrokenLetter as fault:
            log.error("the letter %s cannot be read (%s); it is kept in %s", path, fault, _DEAD)
            path.rename(self._dead / path.name)
            return None

    @property
    def _mine(self) -> Path:
        """The own folder; OSError where there is none, as for any folder that is not there."""
        if self._own is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self._folder))
        return self._own

    def write(self, letter: Letter, letter_id: str, now: float, *, promise: bool = False) -> Posted:
        """Keep a letter; on the disk itself when this returns.

        It takes the place of a promise of that id, at once: never are both there, or none.

        Raises:
            InvalidPayload: it has a secret, and WEBHOOK_SECRET is not set.
            OSError: it cannot be written.
        """
        return write_letter(letter, self._mine / letter_id, now, self._seal, promise=promise)

    def read(self, letter: Posted) -> Opened:
        """Give what a try needs.

        Raises:
            Unsealable, BrokenLetter: it cannot be had.
            FileNotFoundError: somebody dropped it, or took it over.
        """
        return open_letter(self._mine / letter.id, self._seal)

    def note(self, letter: Posted) -> None:
        """Write down what came of a try; only for people who look, so a full disk is no matter."""
        try:
            note(self._mine / letter.id, letter)
        except OSError as error:
            log.debug("%s: no note taken: %s", letter.id, error)

    def fall_due(self, letter: Posted, now: float) -> Posted:
        """Make a letter of a promise that was taken over; its age counts from now."""
        letter = replace(letter, since=now, promise=False)
        self.note(letter)
        return letter

    def remove(self, letter_id: str) -> None:
        """Forget a letter that was delivered, or a promise.

        Raises:
            OSError: it cannot be removed.
        """
        (self._mine / letter_id).unlink(missing_ok=True)
        sync_folder(self._mine)

    def bury(self, letter: Posted) -> None:
        """Put a letter among the dead, with what was said last.

        Raises:
            OSError: it cannot be moved.
        """
        path = self._mine / letter.id
        with contextlib.suppress(FileNotFoundError):
            try:
                note(path, letter, durable=True)
            except OSError as error:
                log.debug("%s: no note taken: %s", letter.id, error)
            path.rename(self._dead / letter.id)
            sync_folder(self._dead)
            sync_folder(self._mine)

    def revive(self, letter_id: str, now: float) -> Posted | None:
        """Take a letter back from the dead, as if it were posted now; None where it is not there.

        Raises:
            BrokenLetter: it cannot be read.
        """
        path = self._dead / letter_id
        if not _ID.fullmatch(letter_id):
            return None
        try:
            letter = replace(read_posted(path), since=now, tries=0, refusals=0, dead=False)
            note(path, letter, durable=True)
            path.rename(self._mine / letter_id)
        except FileNotFoundError:
            return None
        sync_folder(self._mine)
        return letter

    def drop(self, letter_id: str) -> bool:
        """Remove a letter, dead or pending, whoever holds it; tell whether it was there.

        A promise stays: its job is under way.
        """
        path = self.find(letter_id)
        if path is None or _is_promise(path):
            return False
        path.unlink(missing_ok=True)
        return True

    def dead(self) -> list[Posted]:
        """List the dead letters, oldest first; those that cannot be read are left out."""
        return _listed(self._dead.glob("[!.]*"))

    def pending(self) -> list[Posted]:
        """List the pending letters of all processes, oldest first, then the promises."""
        found: list[Path] = []
        for folder in self._folder.glob(f"{_OWN}*"):
            with contextlib.suppress(FileNotFoundError):  # its process ends, or it is taken over
                found += folder.glob("[!.]*")
        return _listed(found)

    def dead_sizes(self) -> dict[str, int]:
        """Give the sizes of the dead letters' files in bytes by id, oldest first."""
        sizes = {}
        for path in sorted(self._dead.glob("[!.]*")):
            with contextlib.suppress(FileNotFoundError):
                sizes[path.name] = path.stat().st_size
        return sizes

    def find(self, letter_id: str) -> Path | None:
        """Give the file of a letter, wherever it is."""
        if not _ID.fullmatch(letter_id):
            return None
        return next(self._folder.glob(f"*/{letter_id}"), None)


def new_id(after: str = "") -> str:
    """Make an id that sorts after another one, and after all of the past."""
    number = time.time_ns()
    if after:
        number = max(number, int(after.partition("-")[0]) + 1)
    return f"{number:020d}-{secrets.token_hex(4)}"


def _listed(paths: Iterable[Path]) -> list[Posted]:
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError, BrokenLetter):
            found.append(read_posted(path))
    return sorted(found, key=lambda letter: letter.age_key)


def _is_promise(path: Path) -> bool:
    if path.parent.name == _DEAD:
        return False
    try:
        return read_posted(path).promise
    except (BrokenLetter, OSError):
        return False


def _hold(folder: Path) -> int:
    """Lock a folder, as long as the descriptor is open.

    Raises:
        BlockingIOError: another one does.
        OSError: it is gone, or cannot be locked.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
