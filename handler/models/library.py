"""Models by URL, by a name of the catalogue or by file name -> files that the engine lists."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handler.credentials import auth_for
from handler.errors import HandlerError, InputFailed
from handler.graph.model_inputs import is_model_url
from handler.models.by_name import OperatorModels
from handler.models.catalogue import LEGACY, Catalogue
from handler.models.listings import Listings
from handler.models.names import check_filename, published_name
from handler.models.places import (
    REPOSITORIES,
    check_shared,
    folder_named,
    own_file,
    root_of,
    whole_repository,
)
from handler.models.publish import taken_elsewhere
from handler.models.records import ModelSource
from handler.models.visible import find_folder, make_listed, make_visible, model_suffix
from handler.transfer.verify import SAFETENSORS, check_safetensors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from handler.credentials import Credential
    from handler.engine.base import Engine
    from handler.graph.model_inputs import ModelInput
    from handler.models.records import Named, Stored
    from handler.models.store import Store
    from handler.transfer.download import Downloader
    from handler.transfer.records import OnProgress

log = logging.getLogger("comfyfn.models")


@dataclass(frozen=True, slots=True)
class Added:
    """A model that was put where the engine finds it.

    Attributes:
        folder: the model folder's name, as `checkpoints`.
        filename: the file's name in it.
        path: where it lies.
        bytes: its size.
        seconds: what it took.
        fetched: False where it was in the store already.
    """

    folder: str
    filename: str
    path: Path
    bytes: int
    seconds: float
    fetched: bool


class ModelLibrary:
    """Brings models to where the engine looks for them, and sees to it that it sees them.

    Args:
        catalogue: models of the operator's by name; each may stand there under several names.
        operator: brings those that the manifest brings, too.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        catalogue: Mapping[str, Named] | None = None,
        operator: Downloader | None = None,
    ) -> None:
        self._store = store
        self._operators = OperatorModels(store, operator)
        self._engine = engine
        self._catalogue = Catalogue((catalogue or {}).values())
        # (class, input) -> folder, where that had to be found out.
        self._learnt: dict[tuple[str, str], str] = {}
        self._lists = Listings(engine)

    def __repr__(self) -> str:
        return f"<ModelLibrary {len(self.known)} names>"

    @property
    def known(self) -> Collection[str]:
        """What graphs may call the catalogue's models."""
        return self._catalogue.names

    def known_in(self, folders: Collection[str]) -> list[str]:
        """List what graphs may call the catalogue's models of some folders."""
        return self._catalogue.names_in(folders)

    async def listings(self, *, fresh: bool = False) -> Mapping[str, Collection[str]]:
        """Give the files of each model folder.

        Args:
            fresh: as they are now, where they may else be older.

        Raises:
            NotReady: the engine has not booted yet.
        """
        return await self._lists.get(fresh=fresh)

    async def resolve(
        self,
        want: ModelInput,
        credentials: Sequence[Credential],
        owner: str,
        on_progress: OnProgress | None = None,
        *,
        operator: bool = False,
    ) -> str:
        """Give the name by which the node's list has a model; fetch the model before, if need be.

        Args:
            owner: a job's uid: the file stays until `release`.
            operator: the graph is the operator's, whose URLs may lead anywhere.

        Raises:
            HandlerError: it cannot be had, names node and input.
        """
        try:
            if want.listed:
                await self._hold_listed(want, owner)
                return want.value
            named = self._meant(want)
            if named is not None:
                return await self._by_name(want, named, owner, on_progress)
            if is_model_url(want.value):
                auth = auth_for(credentials, want.value)
                source = ModelSource(url=want.value, auth=auth, operator=operator)
                return await self._by_url(want, source, owner, on_progress)
            raise InputFailed(f'"{want.value[:200]}" is neither listed nor in the catalogue')
        except HandlerError as fault:
            raise _placed(fault, want) from fault

    async def add(
        self,
        source: ModelSource,
        folder: str,
        filename: str | None,
        owner: str,
        on_progress: OnProgress | None = None,
    ) -> Added:
        """Put a model into a folder, made when missing, and make sure that the engine lists it.

        Args:
            filename: a name without folders; the source's own where None.
            owner: who the file is kept for until `release`.

        Raises:
            InvalidPayload: there is no such folder, or no file can be called so.
            HandlerError: it cannot be had, or another file has the name.
        """
        begun = time.monotonic()
        folders = await self._engine.model_folders()
        check_shared(folders)
        name = folder_named(folders, folder)
        root = root_of(folders, name)
        if filename is not None:
            check_filename(filename)
        stored = await self._store.get(source, owner, on_progress)
        leaf = filename or stored.leaf
        await self._check_named(stored, leaf)
        path = root / leaf
        searched = folders.paths.get(name, ())
        there = await asyncio.to_thread(taken_elsewhere, searched, path, stored.path)
        if there is None:
            if folders.locate(name, leaf) is None:  # else its bytes are compared
                self._catalogue.check_free(name, leaf, source, stored)
            try:
                async with self._published(stored, path):
                    await make_listed(self._engine, name, path)
            except InputFailed as fault:
                fault.location = fault.location or "filename"
                raise
        path = there or path
        self._lists.note(name, leaf)
        return Added(name, leaf, path, stored.bytes, time.monotonic() - begun, stored.fetched)

    async def hold(self, folder: str, filename: str, owner: str) -> bool:
        """Keep a file for an owner, if the store has it; note that it is used."""
        path = (await self._engine.model_folders()).locate(folder, filename)
        return path is not None and self._store.use(path, owner)

    def release(self, owner: str) -> None:
        """Let go of everything that was kept for an owner."""
        self._store.release(owner)

    # -- ways -------------------------------------------------------------------------------------

    async def _hold_listed(self, want: ModelInput, owner: str) -> None:
        for folder in want.folders:
            await self.hold(folder, want.value, owner)

    async def _by_url(
        self, want: ModelInput, source: ModelSource, owner: str, on_progress: OnProgress | None
    ) -> str:
        folders = await self._engine.model_folders()
        check_shared(folders)
        if want.folders == (REPOSITORIES,):
            raise whole_repository()
        there = own_file(source.url, folders, want.folders)
        if there is not None:
            await self.hold(*there, owner)
            path = folders.locate(*there)
            if path is not None:
                await make_visible(self._engine, want, there[0], path)
            return there[1]
        folder = await self._one_folder(want)
        root = root_of(folders, folder)
        stored = await self._store.get(source, owner, on_progress)
        path = root / published_name(stored.leaf, stored.key)
        async with self._published(stored, path):
            await make_visible(self._engine, want, folder, path)
        self._lists.note(folder, path.name)
        return path.name

    def _meant(self, want: ModelInput) -> Named | None:
        """Give the operator's model that is meant: by name, or by its own URL.

        Whoever knows that URL may have the file by its name as well.
        """
        if is_model_url(want.value):
            return self._catalogue.find_url(want.value, want.folders)
        return self._catalogue.find(want.value, want.folders)

    async def _by_name(
        self, want: ModelInput, named: Named, owner: str, on_progress: OnProgress | None
    ) -> str:
        folders = await self._engine.model_folders()
        check_shared(folders)
        folder = LEGACY.get(named.folder, named.folder)
        if folder not in want.folders:
            raise InputFailed(
                f'"{want.value[:200]}" is a model for {folder}',
                hint=f"{want.input} takes models of {' or '.join(want.folders)}",
            )
        path = folders.locate(folder, named.filename)
        if path is not None and named.size is not None and path.stat().st_size != named.size:
            raise InputFailed(
                f"{path} has {path.stat().st_size} bytes, not the {named.size} of the catalogue",
                hint="remove the file, or correct the catalogue",
                blame="image",
            )
        if path is None:
            place = root_of(folders, folder) / named.filename
            path = await self._operators.bring(named, place, owner, on_progress)
        else:
            self._store.use(path, owner)
        await make_visible(self._engine, want, folder, path)
        self._lists.note(folder, named.filename)
        return named.filename

    async def _one_folder(self, want: ModelInput) -> str:
        if len(want.folders) == 1:
            return want.folders[0]
        place = (want.class_type, want.input)
        if place not in self._learnt:
            found = await find_folder(self._engine, want, model_suffix(want.value))
            if found is None:
                raise InputFailed(
                    f"{want.class_type} takes no model file in its input {want.input}",
                    hint="none of the engine's model folders feeds its choices",
                )
            self._learnt[place] = found
        return self._learnt[place]

    async def _check_named(self, stored: Stored, leaf: str) -> None:
        """Have nothing stand as a safetensors file that is none: its URL may have told nothing."""
        if Path(leaf).suffix.lower() in SAFETENSORS:
            await asyncio.to_thread(check_safetensors, stored.path, leaf)

    @contextlib.asynccontextmanager
    async def _published(self, stored: Stored, path: Path) -> AsyncIterator[None]:
        """Link a model to its place; one that then is not seen, during the block, goes again."""
        made = await self._store.publish(stored, path)
        try:
            yield
        except HandlerError:
            if made:
                self._store.withdraw(stored, path)
            raise


def _placed(fault: HandlerError, want: ModelInput) -> HandlerError:
    placed = fault.detached()
    placed.message = f"Failed to process model for node {want.node_id}: {fault.message}"
    placed.args = (placed.message,)
    return placed.at(want.location, want.node_id, want.class_type, want.title)
