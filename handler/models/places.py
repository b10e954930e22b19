"""Where files of a model folder may be put, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from handler.errors import InputFailed, InvalidPayload
from handler.models.catalogue import LEGACY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.engine.model_folders import ModelFolders

REPOSITORIES = "diffusers"
"""A model folder whose entries are folders."""


def check_shared(folders: ModelFolders) -> None:
    """Make sure that the engine's model folders are on this machine.

    Raises:
        InputFailed: they are not.
    """
    if not any(folders.paths.values()):
        raise InputFailed(
            "models cannot be fetched for this engine: its model folders are not on this machine",
            hint="put the file there by hand, or run ComfyUI by COMFY_HOME in place of COMFY_URL",
            blame="image",
        )


def folder_named(folders: ModelFolders, folder: str) -> str:
    """Give a model folder's own name; older ones are taken.

    Raises:
        InvalidPayload: the engine has no such folder.
        InputFailed: its entries are no files.
    """
    name = folder if folder in folders.names else LEGACY.get(folder, folder)
    if name not in folders.names:
        raise InvalidPayload(
            f"the engine has no model folder {folder[:80]!r}",
            location="model_type",
            hint=f"it has {', '.join(sorted(folders.names))}",
        )
    if name == REPOSITORIES:
        raise whole_repository()
    return name


def root_of(folders: ModelFolders, folder: str) -> Path:
    """Give the folder on disk that new files of a model folder go to.

    Raises:
        InputFailed: none can be written.
    """
    root = folders.writable(folder)
    if root is None:
        places = ", ".join(map(str, folders.paths.get(folder, ()))) or "it has no folder here"
        raise InputFailed(
            f"nothing can be written to the model folder {folder}: {places}", blame="image"
        )
    return root


def own_file(url: str, folders: ModelFolders, wanted: Iterable[str]) -> tuple[str, str] | None:
    """Give folder and name of a path that is a file of one of these model folders anyway."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"", "file"} or parts.netloc:
        return None
    path = Path(unquote(parts.path) if parts.scheme else url)
    for folder in wanted:
        for root in folders.paths.get(folder, ()):
            if path.is_relative_to(root):
                name = path.relative_to(root).as_posix()
                return (folder, name) if folders.locate(folder, name) else None
    return None


def whole_repository() -> InputFailed:
    """Say that no URL of one file brings a folder of many."""
    return InputFailed(
        "diffusers are folders of many files, which no URL of one file brings",
        hint="have the manifest bring each file, with `folder: diffusers` and `filename: NAME/...`",
    )
