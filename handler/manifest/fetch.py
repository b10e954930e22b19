"""Brings a manifest's models to their places: found there, linked from the store, or fetched."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from handler.errors import HandlerError
from handler.inputs.redact import redacted
from handler.manifest import hash_note
from handler.manifest.faults import InstallFailed
from handler.models.records import ModelSource
from handler.transfer.base import DiskFull
from handler.transfer.records import Progress, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from handler.manifest.records import ModelFile
    from handler.models.records import Stored
    from handler.transfer.download import Downloader
    from handler.transfer.records import Downloaded, OnProgress

log = logging.getLogger("comfyfn.manifest")

_HASHED_AT_ONCE = 2
_OWNER = "manifest"


class Shelf(Protocol):
    """What was fetched before, for whoever asked. A port: the store of models is behind it."""

    async def find(self, source: ModelSource) -> Stored | None:
        """Give the file where it is there, whole; the network is not asked."""
        ...

    async def publish(self, stored: Stored, target: Path) -> bool:
        """Put it under a name, without a copy.

        Raises:
            HandlerError: another file has the name, or it cannot be written.
        """
        ...

    def use(self, path: Path, owner: str) -> bool:
        """Keep a file for an owner, if it is one of the shelf's."""
        ...


class ModelFetcher:
    """The port `installer.Downloads`, done by the transfer engine.

    Args:
        listen: gives who is told of a model's bytes on their way.
        shelf: asked before anything is fetched.
    """

    def __init__(
        self,
        downloader: Downloader,
        listen: Callable[[ModelFile], OnProgress] | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._downloader = downloader
        self._listen = listen
        self._shelf = shelf
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
                self._keep(model, path)
                return "there"
            if await self._linked(model, path):
                self._keep(model, path)
                return "linked from the cache"
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
        if model.sha256 is not None:
            hash_note.remember(path, model.sha256)
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
        if model.sha256 is None or hash_note.remembered(path) == model.sha256:
            return True
        async with self._hashing:
            found = await hash_note.sha256_of(path)
        if found != model.sha256:
            log.warning("%s is there with another sha256, and is fetched anew", path)
            return False
        hash_note.remember(path, found)
        return True

    async def _linked(self, model: ModelFile, path: Path) -> bool:
        """Put the file that the store has under the model's name; False where it has none."""
        for url in model.urls if self._shelf is not None else ():
            assert self._shelf is not None
            source = ModelSource(url=url, sha256=model.sha256, size=model.size, operator=True)
            stored = await self._shelf.find(source)
            if stored is None or (model.size or stored.bytes) != stored.bytes:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # another file, or it would have been taken
                await self._shelf.publish(stored, path)
            except HandlerError as fault:
                log.warning("%s: %s; it is fetched", path, fault.message)
                return False
            return True
        return False

    def _keep(self, model: ModelFile, path: Path) -> None:
        if self._shelf is not None:  # what the operator names is not for the cache to remove
            self._shelf.use(path, _OWNER)
        if self._listen is not None:
            size = path.stat().st_size
            self._listen(model)(Progress(size, size, 0.0))

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
