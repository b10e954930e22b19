"""Takes what was downloaded into the store: its last check, its name, its note."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from handler.inputs.redact import redacted
from handler.models.access import needs_right, origin_of
from handler.models.eviction import discard
from handler.models.item import Item
from handler.models.names import HEAD_BYTES, leaf_for, suffix_of, url_id
from handler.transfer.verify import SAFETENSORS, Corrupt, check_safetensors

if TYPE_CHECKING:
    from handler.models.index import Index
    from handler.models.records import ModelSource
    from handler.transfer.records import Downloaded


async def admit(index: Index, source: ModelSource, got: Downloaded) -> Item:
    """Make an object of a downloaded file, or find that the store has this content.

    Raises:
        Corrupt: it is no whole safetensors file, where it should be one.
        OSError: the store cannot be written.
    """
    leaf = await asyncio.to_thread(_leaf, source, got)
    known = index.by_sha256(got.sha256) if got.sha256 else None
    key = _key(index, source, got)
    old = index.get(key)
    if known is None and old is not None and got.etag and old.etag == got.etag:
        known = old  # the URL gives by turns several files, and this one was here before
    if known is not None and index.present(known):
        got.path.unlink()
        _join(known, source)
        known.created = time.time()
        index.add(known)
        index.save(known)
        return known
    if old is not None:
        discard(old, index)
    path = index.folder / f"{key}{suffix_of(leaf)}"
    origin = origin_of(source)
    item = Item(
        key=key,
        path=path,
        bytes=got.bytes,
        leaf=leaf,
        protected=needs_right(source),
        sha256=got.sha256,
        etag=got.etag,
        origins={origin.id: origin},
    )
    # The note first: an object without one could never be found again.
    index.save(item)
    got.path.replace(path)
    item.present()
    index.add(item)
    return item


def _join(item: Item, source: ModelSource) -> None:
    """Note that an item was had in another way, too."""
    origin = origin_of(source)
    old = item.origins.get(origin.id)
    if old is None or not old.public:
        item.origins[origin.id] = origin
    item.protected = item.protected and needs_right(source)


def _key(index: Index, source: ModelSource, got: Downloaded) -> str:
    if got.sha256:
        return f"sha256-{got.sha256}"
    key = f"url-{url_id(source.url)}"
    old = index.get(key)
    if old is not None and index.present(old):
        # The URL gives another file by now; somebody may still use the first.
        return f"url-{url_id(f'{source.url} {got.bytes} {got.etag}')}"
    return key


def _leaf(source: ModelSource, got: Downloaded) -> str:
    """Name the content, and look into it where the download could not know that it should."""
    with got.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    leaf = leaf_for(source.url, got.filename_hint, head, got.bytes, source.suffix)
    named = suffix_of(leaf) in SAFETENSORS
    if named and got.sha256 is None and not suffix_of(got.path.name):
        try:
            check_safetensors(got.path, redacted(source.url))
        except Corrupt:
            with contextlib.suppress(OSError):
                got.path.unlink()
            raise
    return leaf
