"""Who may have what is in the store already: protected files are for those whom the source lets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from handler.inputs.redact import redacted
from handler.models.item import Origin
from handler.models.names import has_userinfo, is_signed, place_id, url_id
from handler.transfer.base import AccessDenied

if TYPE_CHECKING:
    from handler.models.index import Index
    from handler.models.item import Item
    from handler.models.records import ModelSource
    from handler.transfer.download import Downloader

log = logging.getLogger("comfyfn.models")


def is_anonymous(source: ModelSource) -> bool:
    """Tell whether a source comes without credentials of its own, besides its query."""
    return source.auth is None and not has_userinfo(source.url)


def needs_right(source: ModelSource) -> bool:
    """Tell whether what is had from a source is had by a right of the caller's."""
    return not source.operator and (not is_anonymous(source) or is_signed(source.url))


def origin_of(source: ModelSource) -> Origin:
    """Note where an object was had from.

    What the operator fetched is asked for once by way of the callers, since the address policy
    may refuse them the URL.
    """
    return Origin.of(source.url, public=not source.operator and is_anonymous(source))


async def may_have(item: Item, source: ModelSource, index: Index, callers: Downloader) -> bool:
    """Tell whether who asks may have an item.

    Returns:
        False where only fetching it from their URL can tell.

    Raises:
        AccessDenied: the source refuses them.
        UrlNotAllowed, InputFailed: their URL leads nowhere, or where it may not.
    """
    origin = item.origins.get(url_id(source.url))
    if source.operator or (origin is not None and origin.public):
        return True
    if origin is None:
        return not item.protected or await _same_elsewhere(item, source, callers)
    if not await _given(item, source, callers):
        return False
    if is_anonymous(source) and not item.protected:
        item.origins[origin.id] = Origin.of(source.url, public=True)
        index.save(item)
    return True


def denied(source: ModelSource, fault: AccessDenied) -> AccessDenied:
    """Make the fault of a caller whom the source refuses what is here."""
    return AccessDenied(
        f"{redacted(source.url)} is in the cache, but its source does not give it to this "
        f"request: {fault.message}",
        hint=fault.hint or "send `credentials` (or `auth`) that may read it",
        details=fault.details,
    )


async def _given(item: Item, source: ModelSource, callers: Downloader) -> bool:
    """Tell whether the source gives the very item to who asks.

    What a URL leads to may depend on what is sent with it. Somebody's own header or parameter must
    neither decide what others get by the same URL, nor lead a check to what they may read anyway.
    """
    try:
        remote = await callers.stat(source.url, source.auth)
    except AccessDenied as fault:
        raise denied(source, fault) from fault
    return remote.size == item.bytes and item.etag in {None, remote.etag}


async def _same_elsewhere(item: Item, source: ModelSource, callers: Downloader) -> bool:
    """Tell whether another URL, as one signed anew, surely leads to a protected item.

    A host of the caller's own would let them have any URL: only the place that the item came
    from is asked, else they show their right by fetching the very bytes.
    """
    place = place_id(source.url)
    if all(origin.place != place for origin in item.origins.values()):
        return False
    return await _given(item, source, callers)
