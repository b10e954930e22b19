"""Are the manifest's model folders ones that the engine searches? Pure.

Node packs bring folders of their own, so that only the engine that booted can tell.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from handler.graph.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.engine.model_folders import ModelFolders
    from handler.manifest.records import ModelFile


def unsearched(models: Iterable[ModelFile], folders: ModelFolders) -> list[str]:
    """Name the models whose `folder` the engine does not search, for people.

    A `local_path` may be any place that a node pack reads by itself, and is left alone. So is
    everything where the engine's folders are not on this machine.
    """
    if not any(folders.paths.values()):
        return []
    return [
        _line(model, model.folder, folders)
        for model in models
        if model.folder is not None and not _is_searched(model.folder, folders)
    ]


def _is_searched(folder: str, folders: ModelFolders) -> bool:
    """Tell whether a folder is one of the engine's, by name or on disk, or lies in one."""
    parts = PurePosixPath(folder).parts
    if parts[0] in folders.names:
        return True
    ends = [parts[:count] for count in range(1, len(parts) + 1)]
    places = (place for name in folders.names for place in folders.paths[name])
    return any(place.parts[-len(end) :] == end for place in places for end in ends)


def _line(model: ModelFile, folder: str, folders: ModelFolders) -> str:
    near = nearest(folder, folders.names, limit=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    where = f"line {model.line}: {model.label} is for the folder {folder}"
    return f"{where}, which the engine does not search{meant}"
