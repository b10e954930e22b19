"""A store of models with real downloaders over HTTP, as the tests of the store use it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from handler.inputs.address import AddressPolicy
from handler.models.store import Store
from handler.transfer.download import Downloader
from handler.transfer.records import Limits
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def opened(
    root: Path,
    *,
    budget: int = 0,
    allow: str = "127.0.0.1",
    take: tuple[Path, ...] = (),
    **listeners: Any,
) -> AsyncIterator[Store]:
    """Open a store for the time of a block.

    Args:
        allow: where callers' URLs may lead; the operator's may lead anywhere.
        take: folders that callers may take files from.
        listeners: `on_done`, `on_removed` and `metrics`.
    """
    threads = Threads()
    store = Store(root, budget=budget, **listeners)
    limits = Limits(backoff_s=0.001, spare_disk=0, tries=2, tick_s=0.01)

    def downloader(policy: str) -> Downloader:
        sources = Sources(SourceSettings(local_roots=take), AddressPolicy(policy), threads)
        return Downloader(sources, threads=threads, limits=limits, make_room=store.make_room)

    callers, operator = downloader(allow), downloader("*")
    store.attach(callers, operator)
    store.open()
    try:
        yield store
    finally:
        await callers.close()
        await operator.close()
        store.close()
