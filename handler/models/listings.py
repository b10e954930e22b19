"""The files of each model folder, as the engine lists them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from handler.errors import HandlerError
from handler.graph.model_inputs import is_probe

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from handler.engine.base import Engine
    from handler.engine.model_folders import ModelFolders

log = logging.getLogger("comfyfn.models")


class Listings:
    """Keeps the lists, and reads them anew when asked to or when the engine has booted again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files: dict[str, list[str]] = {}
        self._of: ModelFolders | None = None
        self._reading = asyncio.Lock()
        self._begun = 0

    async def get(self, *, fresh: bool = False) -> Mapping[str, Collection[str]]:
        """Give the names of files by folder.

        Args:
            fresh: as they are now, where they may else be older.

        Raises:
            NotReady: the engine has not booted yet.
        """
        folders = await self._engine.model_folders()
        if fresh or self._of is not folders:
            await self._read(folders)
        return self._files

    def note(self, folder: str, name: str) -> None:
        """Add a file that was just put there."""
        listed = self._files.setdefault(folder, [])
        if name not in listed:
            listed.append(name)

    async def _read(self, folders: ModelFolders) -> None:
        """Read the lists, of which jobs that come at once share one: each is many requests."""
        before = self._begun
        async with self._reading:
            if self._begun > before and self._of is folders:
                return  # it began after it was asked for here
            self._begun += 1
            names = folders.names
            listed = await asyncio.gather(*map(self._files_in, names))
            if names and all(files is None for files in listed):
                return  # the engine is down: what was last known
            known = zip(names, listed, strict=True)
            self._files = {name: files or [] for name, files in known}
            self._of = folders

    async def _files_in(self, folder: str) -> list[str] | None:
        try:
            listed = await self._engine.models_in(folder)
        except HandlerError as fault:  # one bad folder must not keep graphs without models
            log.warning("the engine does not list its model folder %s: %s", folder, fault)
            return None
        return [name for name in listed if not is_probe(name)]
