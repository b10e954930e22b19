"""Fills the Volume of models with what the manifest names, and tells how far it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError
from handler.manifest.fetch import ModelFetcher
from handler.manifest.places import Places
from handler.manifest.schema import read_manifest
from handler.settings import SettingsError
from handler.transfer.download import Downloader
from handler.transfer.operator import operator_sources
from handler.transfer.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from handler.manifest.records import ModelFile
    from handler.settings import Settings
    from handler.transfer.records import OnProgress, Progress

AT_ONCE = 3
EVERY_S = 1.0


@dataclass(slots=True)
class _Telling:
    """What is to be told of the models, in order; of one's bytes, not more than each second."""

    queue: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)
    last: dict[str, float] = field(default_factory=dict)

    def listen(self, model: ModelFile) -> OnProgress:
        """Give who is told of a model's bytes."""
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            now = time.monotonic()
            if now - self.last.get(model.label, -EVERY_S) < EVERY_S:
                return
            self.last[model.label] = now
            item = {
                "type": "progress",
                "model": model.label,
                "bytes": progress.done,
                "total": progress.total,
                "bytes_per_s": round(progress.bytes_per_s),
            }
            loop.call_soon_threadsafe(self.queue.put_nowait, item)

        return tell


async def fill(settings: Settings) -> AsyncGenerator[dict[str, Any], None]:
    """Bring every model of the manifest that is not there yet.

    Yields:
        `{"type": "progress", "model", "bytes", "total", "bytes_per_s"}` while one comes, and once
        of each `{"type": "there", "model", "note"}` or `{"type": "failed", "model", "error"}`.

    Raises:
        SettingsError: there is no manifest, it has faults, or there is no folder for models.
    """
    manifest = read_manifest(settings.manifest, settings.manifest_json)
    if manifest is None or settings.model_dir is None:
        raise SettingsError("MANIFEST names the models and MODEL_DIR their folder: set both")
    places = Places(models=settings.model_dir, roots=settings.model_roots)
    telling, threads = _Telling(), Threads()
    downloader = Downloader(operator_sources(settings, threads), threads=threads)
    fetch = ModelFetcher(downloader, telling.listen)
    free = asyncio.Semaphore(AT_ONCE)

    async def bring(model: ModelFile) -> None:
        async with free:
            try:
                note = await fetch(model, places.of(model))
            except HandlerError as error:
                told = {"type": "failed", "model": model.label, "error": error.message}
            else:
                told = {"type": "there", "model": model.label, "note": note}
            telling.queue.put_nowait(told)

    async def bring_all() -> None:
        try:
            await asyncio.gather(*map(bring, manifest.models))
        finally:
            telling.queue.put_nowait(None)

    bringing = asyncio.create_task(bring_all(), name="fill")
    try:
        while (item := await telling.queue.get()) is not None:
            yield item
        await bringing
    finally:
        bringing.cancel()
        await asyncio.gather(bringing, return_exceptions=True)
        await downloader.close()
        threads.close()
