"""The operator's models: those of the manifest's catalogue, and those that the manifest brings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handler.errors import HandlerError, InputFailed
from handler.models.records import ModelSource
from handler.transfer.records import Wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.models.records import Named, Stored
    from handler.models.store import Store
    from handler.transfer.download import Downloader
    from handler.transfer.records import OnProgress

log = logging.getLogger("comfyfn.models")
T = TypeVar("T")


class OperatorModels:
    """Brings a model that the operator named to its place.

    Args:
        operator: brings what the manifest's own steps bring, and joins them where they are at it.
    """

    def __init__(self, store: Store, operator: Downloader | None) -> None:
        self._store = store
        self._operator = operator

    async def bring(
        self, named: Named, path: Path, owner: str, on_progress: OnProgress | None
    ) -> Path:
        """Bring a model that is not there.

        Args:
            path: where it goes, unless the manifest has a place for it.

        Returns:
            Where it lies now.

        Raises:
            HandlerError: none of its URLs gives it; the image is to blame, or the platform.
        """
        operator, place = self._operator, named.path
        if place is None or operator is None:
            stored = await self._first(
                named, lambda url: self._kept(named, url, owner, on_progress)
            )
            await self._store.publish(stored, path)
            return path
        # As the manifest's step asks for it: equal wishes are fetched once.
        await self._first(
            named,
            lambda url: operator.download(
                Wanted(url, place, sha256=named.sha256, size=named.size), on_progress
            ),
        )
        return place

    def _kept(
        self, named: Named, url: str, owner: str, on_progress: OnProgress | None
    ) -> Awaitable[Stored]:
        source = ModelSource(
            url=url,
            sha256=named.sha256,
            size=named.size,
            operator=True,
            suffix=Path(named.filename).suffix,
        )
        return self._store.get(source, owner, on_progress)

    async def _first(self, named: Named, get: Callable[[str], Awaitable[T]]) -> T:
        """Get a model from the first of its URLs that has it."""
        first: HandlerError | None = None
        for url in named.urls:
            try:
                return await get(url)
            except HandlerError as fault:
                log.warning("a URL of %s fails: %s", named.names[0], fault)
                first = first or fault
        raise _of_operator(named, first)


def _of_operator(named: Named, fault: HandlerError | None) -> HandlerError:
    """Say that the caller can do nothing about it: they did not choose the URL."""
    what = f"{named.names[0]}, a model of the manifest, cannot be had"
    if fault is None:
        return InputFailed(f"{what}: it has no URL", blame="image")
    told = fault.detached()
    told.message = f"{what}: {fault.message}"
    told.args = (told.message,)
    if fault.blame == "caller":
        told.blame = "image"
        told.hint = "check its URL in the manifest, and the operator's token for it"
    return told
