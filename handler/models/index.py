"""What the store has: one note beside each object, and what is known of them in memory.

There is no database: several workers may share the folder on a network volume, so each reads the
notes and takes it as they are when files appear or vanish. The time of an object's last use is
its note's time of change; access times are not kept on many mounts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handler.models.item import from_note, noted, regular, unlink_links
from handler.models.names import url_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.models.item import Item

log = logging.getLogger("comfyfn.models")

K = TypeVar("K")

# Between the note and its object, and while another worker writes, there may be one without the
# other; what is older than this was left by a crash.
_LEFT_AFTER_S = 3600.0


class Index:
    """The items of one folder, by what they are looked up by.

    Args:
        root: the store's folder; objects and notes are in `objects` below it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "objects"
        self._items: dict[str, Item] = {}
        self._by_url: dict[str, Item] = {}
        self._by_sha256: dict[str, Item] = {}
        self._by_inode: dict[tuple[int, int], Item] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> Item | None:
        """Give the item with this key."""
        return self._items.get(key)

    def by_url(self, url: str) -> Item | None:
        """Give the newest item that was had from a URL."""
        return self._by_url.get(url_id(url))

    def by_sha256(self, sha256: str) -> Item | None:
        """Give the item with this content."""
        return self._by_sha256.get(sha256)

    def by_file(self, path: Path) -> Item | None:
        """Give the item whose file a path leads to, by a hard or a symbolic link."""
        try:
            status = path.stat()
        except OSError:
            return None
        item = self._by_inode.get((status.st_dev, status.st_ino))
        return item if item is not None and item.bytes == status.st_size else None

    def present(self, item: Item) -> bool:
        """Tell whether an item's file is there, whole. Blocking, short."""
        if not item.present():
            return False
        # On some network file systems the number is another after a while.
        self._by_inode[item.inode] = item
        return True

    def add(self, item: Item) -> None:
        """Take an item in, in place of one with its key."""
        old = self._items.get(item.key)
        if old is not None and old is not item:
            self.drop(old)
        self._items[item.key] = item
        self._by_inode[item.inode] = item
        if item.sha256:
            self._by_sha256[item.sha256] = item
        for id_ in item.origins:
            other = self._by_url.get(id_)
            if other is None or other.created <= item.created:
                self._by_url[id_] = item

    def drop(self, item: Item) -> None:
        """Forget an item; its files stay."""
        for known in (self._items, self._by_url, self._by_sha256):
            _forget(known, item)
        _forget(self._by_inode, item)
        for other in self:
            if other.origins.keys() & item.origins.keys():
                self.add(other)

    def refresh(self) -> None:
        """Take in what other workers put there since. Blocking."""
        for path in self._notes():
            if path.stem not in self._items and (item := self._read(path)) is not None:
                self.add(item)

    def load(self) -> None:
        """Make the folder, read all notes, and remove what a crash left. Blocking.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refresh()
        old = time.time() - _LEFT_AFTER_S
        notes = {path.stem for path in self._notes()}
        for path in list(self.folder.iterdir()):
            lonely = path.stem not in notes or path.name.startswith(".")
            status = regular(path)
            if lonely and status is not None and status.st_mtime < old:
                log.info("removing %s, left by a crash", path.name)
                path.unlink(missing_ok=True)

    def save(self, item: Item) -> None:
        """Write an item's note; the time of its last use becomes now. Blocking, short.

        A folder that cannot be written is told in the log: the store works on without the note.
        """
        note = self.note_path(item)
        # Another worker may have published it into folders of its own.
        item.links |= {Path(link) for link in _load(note).get("links", ())}
        text = json.dumps(noted(item, self.root), indent=1)
        temporary = note.with_name(f".{note.name}.{secrets.token_hex(4)}.tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(text)
            temporary.replace(note)
        except OSError as fault:
            log.warning("the note of %s cannot be written: %s", item.key, fault.strerror)
        item.last_use = time.time()

    def touch(self, item: Item) -> None:
        """Note that an item is used now. Blocking, short."""
        item.last_use = time.time()
        try:
            os.utime(self.note_path(item))
        except FileNotFoundError:
            self.save(item)
        except OSError:
            log.debug("the last use of %s cannot be noted", item.key)

    def last_use(self, item: Item) -> float:
        """Give the time of the last use, by any worker. Blocking, short."""
        with contextlib.suppress(OSError):
            item.last_use = max(item.last_use, self.note_path(item).stat().st_mtime)
        return item.last_use

    def note_path(self, item: Item) -> Path:
        """Give the path of an item's note."""
        return self.folder / f"{item.key}.json"

    def _notes(self) -> list[Path]:
        try:
            return [path for path in self.folder.glob("*.json") if not path.name.startswith(".")]
        except OSError:
            return []

    def _read(self, note: Path) -> Item | None:
        """Read a note; None for one whose object is not there, or of another make."""
        item = from_note(_load(note), self.root)
        if item is None or item.key != note.stem:
            return None
        try:
            item.last_use = note.stat().st_mtime
        except OSError:
            return None
        if item.present():
            return item
        if item.last_use < time.time() - _LEFT_AFTER_S:
            unlink_links(item)
            note.unlink(missing_ok=True)
        return None


def _forget(known: dict[K, Item], item: Item) -> None:
    for key in [key for key, one in known.items() if one is item]:
        del known[key]


def _load(note: Path) -> dict[str, Any]:
    try:
        told = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
