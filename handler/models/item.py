"""An object of the store, as it is noted beside its file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.inputs.redact import redacted
from handler.models.names import place_id, url_id

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """A URL that an object was had from.

    Attributes:
        id: stands for the URL without user and password.
        place: stands for the URL without its query as well.
        shown: the URL without its secrets.
        public: callers get the object by this very URL without a question to the source.
    """

    id: str
    place: str
    shown: str
    public: bool

    @classmethod
    def of(cls, url: str, *, public: bool) -> Origin:
        """Note a URL."""
        return cls(url_id(url), place_id(url), redacted(url), public)


@dataclass(slots=True, eq=False)
class Item:
    """An object of the store.

    Attributes:
        path: absolute.
        protected: whoever had it so far needed rights of their own.
        origins: by id.
        links: where it was published, absolute; other workers' folders may be among them.
        created: when it came; `last_use`, too, is in seconds since the epoch.
        verified: False for an adopted file that nobody looked into yet.
        inode: device and number of its file.
        look: held by who looks into the file, so that only one does.
    """

    key: str
    path: Path
    bytes: int
    leaf: str
    protected: bool
    sha256: str | None = None
    etag: str | None = None
    origins: dict[str, Origin] = field(default_factory=dict)
    links: set[Path] = field(default_factory=set)
    created: float = field(default_factory=time.time)
    last_use: float = field(default_factory=time.time)
    verified: bool = True
    inode: tuple[int, int] = (0, 0)
    look: asyncio.Lock = field(default_factory=asyncio.Lock)

    def present(self) -> bool:
        """Tell whether its file is there, whole."""
        status = regular(self.path)
        if status is None or status.st_size != self.bytes:
            return False
        self.inode = (status.st_dev, status.st_ino)
        return True

    @property
    def shown(self) -> str:
        """Its first URL as it may be shown; "" where none is known."""
        return next((origin.shown for origin in self.origins.values()), "")


def noted(item: Item, root: Path) -> dict[str, Any]:
    """Give what is written of an item, JSON-safe; nothing in it is secret."""
    return {
        "version": _VERSION,
        "key": item.key,
        "file": os.path.relpath(item.path, root),
        "bytes": item.bytes,
        "sha256": item.sha256,
        "etag": item.etag,
        "leaf": item.leaf,
        "protected": item.protected,
        "verified": item.verified,
        "created": item.created,
        "urls": [
            {"url": one.shown, "id": one.id, "place": one.place, "public": one.public}
            for one in item.origins.values()
        ],
        "links": sorted(map(str, item.links)),
    }


def from_note(told: dict[str, Any], root: Path) -> Item | None:
    """Read what was written of an item; None for what is of another make, or leads outside."""
    try:
        origins = [
            Origin(str(one["id"]), str(one["place"]), str(one["url"]), bool(one["public"]))
            for one in told["urls"]
        ]
        item = Item(
            key=str(told["key"]),
            path=Path(os.path.normpath(root / str(told["file"]))),
            bytes=int(told["bytes"]),
            leaf=str(told["leaf"]),
            protected=bool(told["protected"]),
            sha256=told["sha256"],
            etag=told["etag"],
            origins={origin.id: origin for origin in origins},
            links={Path(link) for link in told["links"]},
            created=float(told["created"]),
            verified=bool(told["verified"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return item if item.path.is_relative_to(root) else None


def regular(path: Path) -> os.stat_result | None:
    """Give the status of a regular file; None for anything else, symbolic links included."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def unlink_links(item: Item) -> None:
    """Remove the links that still are this item's; what others put there stays. Blocking."""
    for link in item.links:
        with contextlib.suppress(OSError):
            if is_link_of(link, item):
                link.unlink()


def is_link_of(link: Path, item: Item) -> bool:
    """Tell whether a path is a hard or a symbolic link to an item's file, maybe a dangling one.

    Raises:
        OSError: there is nothing.
    """
    status = link.lstat()
    if stat.S_ISLNK(status.st_mode):
        return link.readlink() == item.path
    return (status.st_dev, status.st_ino) == item.inode
