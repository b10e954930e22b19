"""Reads model files into the page cache while the engine boots: it then finds them in memory.

ComfyUI maps its weights and faults them in page by page, one after the other; on a network volume
that is many times slower than reading in parallel, and it happens when the boot is over. Here the
boot's own time is used. Nothing waits for it, and a failure of it is told and hurts nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.engine.free_memory import free_memory, reserve
from handler.engine.page_cache import CachedFile, bring_in, is_resident
from handler.graph.file_kinds import is_model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

log = logging.getLogger("comfyfn.engine")
MIB = 1 << 20
# Measured with 2.1 GB on a disk of 2 GB/s: from one reader to eight makes no difference there.
# Eight are for volumes over a network, where each waits for its own answer most of the time.
READERS = 8
BLOCK_BYTES = 16 * MIB
MEMORY_CHECK_BLOCKS = 16
MOST_FOLDERS = 500


def names_in(graph: Any) -> list[str]:
    """List what looks like names of model files in a graph or payload, in order, once each."""
    found: dict[str, None] = {}
    waiting = [graph]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, str) and "://" not in value and is_model_name(value):
            found[value] = None
    return list(found)


@dataclass(slots=True)
class Tally:
    """What was done below one root. Sizes in bytes, times on the monotonic clock."""

    read: int = 0
    resident: int = 0
    no_memory: int = 0
    begun: float | None = None
    ended: float = 0.0

    def told(self) -> dict[str, Any]:
        """Give it for the boot report."""
        seconds = self.ended - self.begun if self.begun is not None else 0.0
        rate = round(self.read / seconds / 1e6, 1) if self.read and seconds else None
        return {
            "bytes": self.read,
            "seconds": round(seconds, 3),
            "mb_per_s": rate,
            "resident_bytes": self.resident,
            "no_memory_bytes": self.no_memory,
        }


@dataclass(frozen=True, slots=True)
class _Block:
    path: Path
    root: Path
    offset: int
    length: int


class ReadAhead:
    """Finds files by their names below the roots and reads them, in threads of its own."""

    def __init__(
        self,
        roots: Mapping[Path, tuple[Path, ...]],
        *,
        room: Callable[[], int | None] = free_memory,
        readers: int = READERS,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Take where to look; nothing is read before `add`.

        Args:
            roots: the folders, in the engine's order, whose subfolders hold models; by the root
                that they are reported under.
            room: tells how many bytes the page cache may take now, None where that is unknown.
        """
        self._roots, self._room = roots, room
        self._readers, self._block_bytes = readers, block_bytes
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._taken: set[tuple[int, int]] = set()
        self._named: set[str] = set()
        self._missing: list[str] = []
        self._tallies: dict[Path, Tally] = {}
        self._finders: list[threading.Thread] = []

    def add(self, names: Iterable[str]) -> None:
        """Begin with files of these names; returns at once, from any thread, and never fails."""
        with _told_only(), self._lock:
            fresh = [name for name in names if name not in self._named]
            self._named.update(fresh)
            if not fresh or self._stop.is_set():
                return
            thread = threading.Thread(
                target=self._bring, args=(fresh,), name="read-ahead", daemon=True
            )
            thread.start()
            self._finders.append(thread)

    def stop(self) -> None:
        """Begin nothing more; what is being read ends by itself. Does not wait: a disk may hang."""
        self._stop.set()

    def wait(self, limit_s: float) -> bool:
        """Wait for all that was begun, at most so long, and tell whether it has ended."""
        until = time.monotonic() + limit_s
        for thread in list(self._finders):
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._finders)

    def report(self) -> dict[str, Any]:
        """Tell what was done so far: per root, with what was left out and why."""
        with self._lock:
            roots = {str(root): tally.told() for root, tally in self._tallies.items()}
            return {"roots": roots, "not_found": list(self._missing)}

    def _bring(self, names: list[str]) -> None:
        with _told_only():
            blocks = self._blocks(self._find(names))
            lock = threading.Lock()
            readers = [
                threading.Thread(
                    target=self._read_all, args=(blocks, lock), name="read-ahead", daemon=True
                )
                for _ in range(self._readers)
            ]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()

    def _find(self, names: list[str]) -> list[tuple[Path, Path, int]]:
        """Give path, root and size of each file; the first root that has it wins."""
        begun, found = time.monotonic(), []
        bases = [(root, base) for root, bases in self._roots.items() for base in bases]
        folders = [(root, folder) for root, base in bases for folder in _below(base)]
        for name in names:
            seen: set[str] = set()
            # `checkpoints/x.safetensors` may be a name in any folder, or begin with the folder's.
            places = [*folders, *(bases if "/" in name else ())] if _is_plain(name) else []
            for root, folder in places:
                # In one folder of models the engine takes the first root's; another folder may
                # have another file of that name, and who is meant is not known yet.
                kind = "" if (root, folder) in bases else folder.name
                status = None if kind in seen else _status(folder / name)
                if status is None:
                    continue
                seen.add(kind)
                identity = (status.st_dev, status.st_ino)
                if identity not in self._taken:
                    self._taken.add(identity)
                    found.append((folder / name, root, status.st_size))
            if not seen:
                with self._lock:
                    self._missing.append(name)
        log.debug("read ahead: %d files found in %.3f s", len(found), time.monotonic() - begun)
        return found

    def _blocks(self, files: list[tuple[Path, Path, int]]) -> Iterator[_Block]:
        step, left = self._block_bytes, self._remaining()
        count = itertools.count()
        for path, root, size in files:
            with self._lock:
                tally = self._tallies.setdefault(root, Tally())
            for offset in range(0, size, step):
                length = min(step, size - offset)
                if next(count) % MEMORY_CHECK_BLOCKS == 0:
                    left = min(left, self._remaining())
                if length > left:
                    left = 0  # a later file would push out what comes before it
                    with self._lock:
                        tally.no_memory += length
                    continue
                left -= length
                yield _Block(path, root, offset, length)

    def _remaining(self) -> int:
        room = self._room()
        return 1 << 62 if room is None else max(0, room - reserve())

    def _read_all(self, blocks: Iterator[_Block], lock: threading.Lock) -> None:
        with _told_only(), contextlib.closing(CachedFile()) as file:
            while not self._stop.is_set():
                with lock:
                    block = next(blocks, None)
                if block is None:
                    return
                with contextlib.suppress(OSError):  # the engine will tell of it
                    self._read(block, file)

    def _read(self, block: _Block, file: CachedFile) -> None:
        descriptor, begun = file.of(block.path), time.monotonic()
        if is_resident(descriptor, block.offset, block.length):
            with self._lock:
                self._tallies[block.root].resident += block.length
            return
        done = 0
        while done < block.length and not self._stop.is_set():
            got = bring_in(file, block.offset + done, block.length - done)
            if not got:  # the file has become shorter
                break
            done += got
        with self._lock:
            tally = self._tallies[block.root]
            tally.read += done
            tally.begun = min(begun, tally.begun or begun)
            tally.ended = time.monotonic()


@contextlib.contextmanager
def _told_only() -> Iterator[None]:
    """Log whatever fails: the boot goes on without."""
    try:
        yield
    except Exception:
        log.warning("models are not read ahead", exc_info=True)


def _below(base: Path) -> list[Path]:
    """List the folders in a folder; none where it cannot be read."""
    try:
        with os.scandir(base) as entries:
            some = itertools.islice((entry for entry in entries if entry.is_dir()), MOST_FOLDERS)
            return sorted(Path(entry.path) for entry in some)
    except OSError:
        return []


def _is_plain(name: str) -> bool:
    """Tell whether a name stays below the folder that it is looked for in."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _status(path: Path) -> os.stat_result | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None
