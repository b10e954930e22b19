"""What graphs may call the models of a manifest."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from handler.models.records import Named

if TYPE_CHECKING:
    from pathlib import Path

    from handler.manifest.places import Places
    from handler.manifest.records import Manifest, ModelFile


def named_models(manifest: Manifest, places: Places | None) -> dict[str, Named]:
    """Give the models of the catalogue and those that the manifest brings.

    Args:
        places: tells which model folder a `local_path` is in; None where the engine's folders are
            out of reach.

    Returns:
        By the catalogue's name, and for the others by `folder/filename`. One that lies in no
        model folder has no name there.
    """
    found = {}
    for name, model in manifest.catalogue.items():
        if model.folder is not None and model.filename is not None:
            found[name] = _named(model, model.folder, model.filename)
    for model in manifest.models:
        place = _place(model, places)
        if place is not None:
            path = places.of(model) if places is not None else None
            found[f"{place[0]}/{place[1]}"] = _named(model, *place, path)
    return found


def _place(model: ModelFile, places: Places | None) -> tuple[str, str] | None:
    """Give folder and name, `checkpoints` and `sub/x.safetensors`."""
    if model.local_path is None:
        return (model.folder, model.filename) if model.folder and model.filename else None
    if places is None:
        return None
    path = places.of(model)
    # ComfyUI searches its own folder, too, where MODEL_DIR is another.
    own = (places.home / "models",) if places.home is not None else ()
    # The deepest first: `root/models` before `root`.
    for root in sorted((places.models, *own, *places.roots), key=lambda one: -len(one.parts)):
        if path.is_relative_to(root):
            folder, *rest = path.relative_to(root).parts
            return (folder, PurePosixPath(*rest).as_posix()) if rest else None
    return None


def _named(model: ModelFile, folder: str, filename: str, path: Path | None = None) -> Named:
    return Named(
        names=(model.name or PurePosixPath(filename).name, *model.aliases),
        urls=model.urls,
        folder=folder,
        filename=filename,
        sha256=model.sha256,
        size=model.size,
        path=path,
    )
