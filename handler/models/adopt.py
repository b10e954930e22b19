"""Takes over the cache of a comfyui-api deployment: its files are used where they are.

They are named by a hash of their URL or by what a caller wrote, and have the URL in a file beside
them, `<name>.meta`. Its version 1.18 could leave the beginning of a file under the final name, so
each is looked into before its first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, UrlNotAllowed
from handler.models.access import denied
from handler.models.item import Item, Origin, regular
from handler.models.names import HEAD_BYTES, bare_url, is_safetensors, leaf_for, url_id
from handler.transfer.base import AccessDenied
from handler.transfer.verify import SAFETENSORS, Corrupt, check_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from handler.models.index import Index
    from handler.models.records import ModelSource
    from handler.transfer.download import Downloader

log = logging.getLogger("comfyfn.models")

_HASH_NAME = re.compile(r"[A-Za-z0-9_-]{32}(\.[^.]{1,15})?")
_META = ".meta"


def adopt(index: Index) -> int:
    """Take in the files of the folder that are of comfyui-api, and give their number. Blocking.

    Symbolic links, dot files and what has neither a note nor a hash for a name are left alone.
    """
    claimed = {item.path for item in index}
    count = 0
    for path in sorted(index.root.iterdir()):
        if path in claimed or path.name.startswith(".") or path.name.endswith(_META):
            continue
        item = _item(path)
        if item is not None and index.get(item.key) is None:
            index.add(item)
            count += 1
    if count:
        log.info("took over %d files of a comfyui-api cache in %s", count, index.root)
    return count


async def is_whole(item: Item, source: ModelSource, downloader: Downloader) -> bool:
    """Look into an adopted file before its first use.

    A safetensors file tells its own length; for others the source is asked, and where that does
    not answer the file is taken as it is.

    Raises:
        AccessDenied: it is protected, and the source refuses who asks.
        UrlNotAllowed: the address policy refuses the URL.
    """
    await downloader.admit(source.url)
    whole = await tells_whole(item)
    if whole is not None:
        return whole
    try:
        remote = await downloader.stat(source.url, source.auth)
    except UrlNotAllowed:
        raise
    except HandlerError as fault:
        if isinstance(fault, AccessDenied) and item.protected and not source.operator:
            raise denied(source, fault) from fault
        log.info("the adopted %s is used unchecked: %s", item.path.name, fault.message)
        return True
    if remote.size not in {None, item.bytes}:
        log.warning(
            "the adopted %s has %d bytes of %d; it is fetched anew",
            item.path.name, item.bytes, remote.size,
        )  # fmt: skip
        return False
    return True


async def tells_whole(item: Item) -> bool | None:
    """Tell by the file alone whether it is whole; None where it does not tell."""
    try:
        head = _head(item.path)
    except OSError:
        return False
    named = item.path.suffix in SAFETENSORS
    if not named and not is_safetensors(head, item.bytes):
        return None
    try:
        await asyncio.to_thread(check_safetensors, item.path, item.path.name)
    except (Corrupt, OSError) as fault:
        log.warning("the adopted %s; it is fetched anew", fault)
        return False
    return True


def _item(path: Path) -> Item | None:
    """Make an item of a file; None where it is none, or nobody could ask for it."""
    status = regular(path)
    if status is None:
        return None
    meta = _meta(path)
    url = str(meta.get("url") or "")
    hashed = _HASH_NAME.fullmatch(path.name) is not None
    if url:
        # Without a clear word it may have been had with credentials.
        protected = meta.get("authRequired") is not False
        origin = Origin.of(bare_url(url), public=not protected)
    elif hashed:
        protected = True
        origin = Origin(path.name[:32], "", "", public=False)
    else:
        return None
    try:
        leaf = leaf_for(url, "" if hashed else path.name, _head(path), status.st_size, path.suffix)
    except OSError:
        return None
    return Item(
        key=f"url-{origin.id if not url else url_id(url)}",
        path=path,
        bytes=status.st_size,
        leaf=leaf,
        protected=protected,
        origins={origin.id: origin},
        created=status.st_mtime,
        last_use=status.st_mtime,
        verified=False,
        inode=(status.st_dev, status.st_ino),
    )


def _meta(path: Path) -> dict[str, Any]:
    meta = path.with_name(f"{path.name}{_META}")
    if regular(meta) is not None:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(meta.read_text())
            return told if isinstance(told, dict) else {}
    return {}


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
