"""Are the manifest's model folders ones that ComfyUI knows, and its names to preload there?

Node packs bring folders of their own, so that only the engine that booted can tell; and a folder
that we told it of ourselves, because it was there, proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from handler.engine.model_folders import ModelFolders
from handler.engine.roots import Registry
from handler.graph.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.engine.boot import Site
    from handler.manifest.records import Manifest, ModelFile

_UNLESS = " unless a node pack registers it"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the engine's folders without asking it.

    Attributes:
        registry: ComfyUI's own folders.
        told: the folders that we told the engine of.
        packs: whether node packs may have registered more.
    """

    registry: Registry = field(default_factory=Registry)
    told: frozenset[Path] = frozenset()
    packs: bool = False


def known_of(site: Site, manifest: Manifest) -> Known:
    """Tell what is known at a site by now; looks into ComfyUI's folder of node packs."""
    paths = [path for root in site.roots for paths in root.folders.values() for path in paths]
    return Known(site.registry or Registry(), frozenset(paths), _has_packs(site, manifest))


def _has_packs(site: Site, manifest: Manifest) -> bool:
    home = site.settings.comfy_home
    if manifest.custom_nodes or home is None:
        return bool(manifest.custom_nodes)
    try:
        here = list((home / "custom_nodes").iterdir())
    except OSError:
        return False
    return any(
        path.is_dir() and path.name != "__pycache__" and path.suffix != ".disabled" for path in here
    )


def is_own(folder: str, registry: Registry) -> bool:
    """Tell whether ComfyUI itself has a folder, by name or below `models/`. Pure."""
    first = PurePosixPath(folder).parts[0]
    return first in registry.places or first in registry.folders


def strange(models: Iterable[ModelFile], registry: Registry) -> list[str]:
    """Name the models for folders that ComfyUI itself does not have, for people. Pure."""
    return [
        _line(model, model.folder, registry.places, "ComfyUI does not know", _UNLESS)
        for model in models
        if model.folder is not None and not is_own(model.folder, registry)
    ]


def unsearched(
    models: Iterable[ModelFile], folders: ModelFolders, known: Known | None = None
) -> list[str]:
    """Name the models whose `folder` the engine does not search, for people. Pure.

    A `local_path` may be any place that a node pack reads by itself, and is left alone. So is
    everything where the engine's folders are not on this machine.
    """
    known = known or Known()
    if not any(folders.paths.values()):
        return []
    by_itself = _without_told(folders, known)
    lines = []
    for model in models:
        folder = model.folder
        if folder is None:
            continue
        if not _is_searched(folder, folders):
            lines.append(_line(model, folder, folders.names, "the engine does not search"))
        elif not _is_searched(folder, by_itself) and (
            # A pack may rely on a name that it found taken; a typo has a folder that is near.
            not known.packs or nearest(folder, known.registry.places, limit=1)
        ):
            names = known.registry.places
            lines.append(_line(model, folder, names, "ComfyUI does not know", _UNLESS))
    return lines


def unfound(manifest: Manifest, folders: ModelFolders) -> list[str]:
    """Name the files to preload that are in no folder of models, for people. Looks at disks.

    Those that come after the start are left alone.
    """
    if not any(folders.paths.values()):
        return []
    later = {PurePosixPath(_name(model)).name for model in manifest.after_start}
    names = [_name(model) for model in manifest.models]
    return [
        f"preload: {name} is in no folder of models{_meant(nearest(name, names, limit=3))}"
        for name in manifest.preload
        if PurePosixPath(name).name not in later and not _is_there(name, folders)
    ]


def _name(model: ModelFile) -> str:
    return model.filename or PurePosixPath(model.local_path or "").name


def _is_there(name: str, folders: ModelFolders) -> bool:
    """Look for a name in any folder, or with the folder's own name before it."""
    if any(folders.locate(folder, name) for folder in folders.names):
        return True
    first, _, rest = name.partition("/")
    return bool(rest) and any(
        path.name == first and (path / rest).is_file()
        for paths in folders.paths.values()
        for path in paths
    )


def _without_told(folders: ModelFolders, known: Known) -> ModelFolders:
    """Leave out the folders, not ComfyUI's own, that the engine knows from us alone."""
    kept = {
        name: paths
        if is_own(name, known.registry)
        else tuple(path for path in paths if path not in known.told)
        for name, paths in folders.paths.items()
    }
    return ModelFolders({name: paths for name, paths in kept.items() if paths})


def _is_searched(folder: str, folders: ModelFolders) -> bool:
    """Tell whether a folder is one of the engine's, by name or on disk, or lies in one."""
    parts = PurePosixPath(folder).parts
    if parts[0] in folders.names:
        return True
    ends = [parts[:count] for count in range(1, len(parts) + 1)]
    places = (place for name in folders.names for place in folders.paths[name])
    return any(place.parts[-len(end) :] == end for place in places for end in ends)


def _line(
    model: ModelFile, folder: str, names: Iterable[str], verdict: str, unless: str = ""
) -> str:
    where = f"line {model.line}: {model.label} is for the folder {folder}"
    return f"{where}, which {verdict}{unless}{_meant(nearest(folder, names, limit=3))}"


def _meant(near: tuple[str, ...]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
