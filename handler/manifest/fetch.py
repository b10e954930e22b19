"""Brings a manifest's models to their places by the downloader."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from handler.errors import HandlerError
from handler.inputs.redact import redacted
from handler.manifest.faults import InstallFailed
from handler.transfer.base import DiskFull
from handler.transfer.records import Wanted
from handler.transfer.verify import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from handler.manifest.records import ModelFile
    from handler.transfer.download import Downloader
    from handler.transfer.records import Downloaded, OnProgress

log = logging.getLogger("comfyfn.manifest")

_HASHED_AT_ONCE = 2


class ModelFetcher:
    """The port `installer.Downloads`, done by the transfer engine.

    Args:
        listen: gives who is told of a model's bytes on their way.
    """

    def __init__(
        self, downloader: Downloader, listen: Callable[[ModelFile], OnProgress] | None = None
    ) -> None:
        self._downloader = downloader
        self._listen = listen
        self._hashing = asyncio.Semaphore(_HASHED_AT_ONCE)

    async def __call__(self, model: ModelFile, path: Path) -> str:
        """Bring a model, or find that it is there; documented at the port.

        A file that is there counts when it is of the size and sha256 that the manifest tells;
        another one is replaced.

        Raises:
            InstallFailed: naming the model, when none of its URLs gives it.
        """
        try:
            if await self._there(model, path):
                return "there"
            got = await self._from_any(model, path)
        except HandlerError as fault:
            raise InstallFailed(
                f"model {model.label}: {fault.message}",
                hint=fault.hint,
                details=fault.details,
                blame="platform" if fault.blame == "platform" else "image",
                retryable=fault.retryable,
            ) from fault
        except OSError as fault:
            raise InstallFailed(f"model {model.label}: {path}: {fault.strerror}") from fault
        came = got.bytes - got.resumed_bytes
        told = f"fetched {came / 1e6:,.1f} MB in {got.seconds:.1f} s"
        told += f", {came / 1e6 / max(got.seconds, 1e-6):,.0f} MB/s"
        return told + (f", {got.resumed_bytes / 1e6:,.1f} MB were there" * bool(got.resumed_bytes))

    async def _there(self, model: ModelFile, path: Path) -> bool:
        if not path.is_file():
            return False
        if model.size is not None and path.stat().st_size != model.size:
            log.warning("%s is there with another size, and is fetched anew", path)
            return False
        if model.sha256 is None:
            return True
        async with self._hashing:
            same = await asyncio.to_thread(sha256_of, path) == model.sha256
        if not same:
            log.warning("%s is there with another sha256, and is fetched anew", path)
        return same

    async def _from_any(self, model: ModelFile, path: Path) -> Downloaded:
        *others, last = model.urls
        for url in others:
            try:
                return await self._from(url, model, path)
            except DiskFull:
                raise
            except HandlerError as fault:
                log.warning("%s: %s; trying its next URL", redacted(url), fault.message)
        return await self._from(last, model, path)

    async def _from(self, url: str, model: ModelFile, path: Path) -> Downloaded:
        wanted = Wanted(url, path, sha256=model.sha256, size=model.size)
        return await self._downloader.download(wanted, self._listen and self._listen(model))
