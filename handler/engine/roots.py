"""Where models are looked for: ComfyUI's folder, MODEL_DIR, MODEL_ROOTS, the platforms' volumes.

Which folders there are is ComfyUI's own registry, not a list of ours that would go stale. A volume
may hold them as `root/models/checkpoints` or as `root/checkpoints`; both are searched.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handler.engine.model_folders import NO_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

log = logging.getLogger("comfyfn.engine")
T = TypeVar("T")
# Where RunPod mounts a network volume: for serverless workers, and for pods.
DEFAULT_VOLUMES = (Path("/runpod-volume"), Path("/workspace"))
LOOK_LIMIT_S = 5.0
MOST_ENTRIES = 2000
# By name, the folders below `models/`. Used where ComfyUI does not tell its own.
USUAL_PLACES: dict[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in (
            "audio_encoders",
            "checkpoints",
            "classifiers",
            "clip_vision",
            "configs",
            "diffusers",
            "embeddings",
            "gligen",
            "hypernetworks",
            "latent_upscale_models",
            "loras",
            "model_patches",
            "photomaker",
            "style_models",
            "upscale_models",
            "vae",
            "vae_approx",
        )
    },
    "controlnet": ("controlnet", "t2i_adapter"),
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
}


@dataclass(frozen=True, slots=True)
class Registry:
    """What ComfyUI calls its folders of models.

    Attributes:
        places: by name, the names of the folders below `models/`, its own name first.
        paths: the folders that ComfyUI searches by itself.
    """

    places: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: USUAL_PLACES)
    paths: tuple[Path, ...] = ()

    @property
    def folders(self) -> frozenset[str]:
        """Every name that a folder of models may have."""
        return frozenset(place for places in self.places.values() for place in places)


@dataclass(frozen=True, slots=True)
class ModelRoot:
    """One place with models.

    Attributes:
        path: as it was named.
        own: MODEL_DIR: a folder of models itself, first in the search, and written to.
        folders: by name, the folders below it that the engine is told of.
        problem: why nothing below it is searched, None where all is well.
        identities: device and inode of each folder.
    """

    path: Path
    own: bool = False
    folders: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    problem: str | None = None
    identities: Mapping[Path, tuple[int, int]] = field(default_factory=dict)


def registry_of(found: Mapping[str, Any]) -> Registry:
    """Read what the probe tells, see `handler.engine.preflight.model_folders`."""
    models = Path(found["models_dir"])
    places: dict[str, tuple[str, ...]] = {}
    paths: list[Path] = []
    for name, (given, _suffixes) in found["folders"].items():
        if name in NO_MODELS:
            continue
        here = [Path(path) for path in given]
        paths += here
        # Folders that extra_model_paths.yaml put elsewhere are called as it liked.
        below = {path.name: None for path in here if path.parent == models}
        places[name] = tuple(sorted(below or {name: None}, key=lambda place: place != name))
    return Registry(places, tuple(paths))


def candidates(
    model_dir: Path | None,
    own: Path | None,
    model_roots: Sequence[Path],
    volumes: Sequence[Path] = DEFAULT_VOLUMES,
) -> list[ModelRoot]:
    """List the roots beside the engine's own folder, in the order of the search; looks into none.

    Args:
        own: the engine's own folder of models, which it searches without being told.
        volumes: roots that count where they exist.
    """
    roots = [ModelRoot(model_dir, own=True)] if model_dir is not None else []
    roots += [ModelRoot(path) for path in model_roots]
    roots += [ModelRoot(path) for path in volumes if _is_listed(path)]
    found: dict[Path, ModelRoot] = {}
    for root in roots:
        if root.path != own:
            found.setdefault(root.path, root)
    return list(found.values())


def _is_listed(path: Path) -> bool:
    """Tell whether a folder is there without touching it: its mount may hang."""
    try:
        return path.name in os.listdir(path.parent)  # noqa: PTH208 - names are enough
    except OSError:
        return False


def survey(
    roots: Sequence[ModelRoot],
    registry: Registry,
    limit_s: float = LOOK_LIMIT_S,
    look: Callable[[ModelRoot, Registry], ModelRoot] | None = None,
) -> list[ModelRoot]:
    """Look what is below each root, all at once, and make what is missing below MODEL_DIR.

    A root that does not answer in time is left out: the engine would hang on it, too. A folder that
    is reached by two ways is searched once.

    Args:
        look: at one root; blocks for as long as its disk does.
    """
    looked = answers([partial(look or scan, root, registry) for root in roots], limit_s)
    seen = set(filter(None, map(identity, registry.paths)))
    found = []
    for root, answer in zip(roots, looked, strict=True):
        late = replace(root, problem=f"it did not answer within {limit_s:g} s")
        here = _without(answer or late, seen)
        seen.update(here.identities.values())
        found.append(here)
        if here.problem:
            log.warning("models: %s is not searched: %s", here.path, here.problem)
        else:
            level = logging.DEBUG if here.own else logging.INFO  # that one has them all
            log.log(level, "models: %s has %s", here.path, ", ".join(here.folders) or "nothing new")
    return found


def _without(root: ModelRoot, seen: set[tuple[int, int]]) -> ModelRoot:
    folders = {
        name: tuple(path for path in paths if root.identities.get(path) not in seen)
        for name, paths in root.folders.items()
    }
    return replace(root, folders={name: paths for name, paths in folders.items() if paths})


def scan(root: ModelRoot, registry: Registry) -> ModelRoot:
    """Find the folders of models below one root; blocks for as long as its disk does."""
    try:
        if root.own:
            _make_missing(root.path, registry)
        outer = _folders_in(root.path, () if root.own else (*registry.folders, "models"))
        inner = _folders_in(outer["models"]) if "models" in outer else {}
    except OSError as error:
        return replace(root, problem=str(error.strerror or error))
    levels = (outer, inner) if root.own else (inner, outer)
    folders: dict[str, tuple[Path, ...]] = {}
    for name, places in registry.places.items():
        here = tuple(level[place] for level in levels for place in places if place in level)
        if here:
            folders[name] = here
    # Node packs add names of their own later, and take what is already known by them.
    for level in levels if root.own else (inner,):
        for name, path in level.items():
            if name not in registry.folders and name not in {"models", *NO_MODELS}:
                folders[name] = (*folders.get(name, ()), path)
    told = {path: identity(path) for paths in folders.values() for path in paths}
    return replace(root, folders=folders, identities={p: i for p, i in told.items() if i})


def _make_missing(folder: Path, registry: Registry) -> None:
    for name in sorted(registry.folders):
        try:
            (folder / name).mkdir(exist_ok=True)
        except FileExistsError:  # a file is called so: the others are made all the same
            continue
        except OSError:  # a read-only volume has what it has
            return


def _folders_in(path: Path, names: Iterable[str] = ()) -> dict[str, Path]:
    """List the folders in a folder, by name.

    Args:
        names: look for these alone: the top of a volume may hold anything, and very much of it.

    Raises:
        OSError: it cannot be read, or is not there.
    """
    with os.scandir(path) as entries:
        listed = list(names) or [
            entry.name
            for entry in itertools.islice(entries, MOST_ENTRIES)
            if not entry.name.startswith(".")
        ]
    return {name: path / name for name in sorted(listed) if _is_folder(path / name)}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def identity(path: Path) -> tuple[int, int] | None:
    """Give device and inode of what a path leads to; None where it leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def answers(questions: Sequence[Callable[[], T]], limit_s: float) -> list[T | None]:
    """Ask all at once and give what was answered in time, None for the rest and for faults.

    A dead network mount never answers: its thread is left behind.
    """
    given: list[T | None] = [None] * len(questions)
    waiting = threading.Semaphore(0)

    def ask(number: int) -> None:
        try:
            given[number] = questions[number]()
        except Exception:  # told, and the same as no answer
            log.warning("a look at the models failed", exc_info=True)
        finally:
            waiting.release()

    until = time.monotonic() + limit_s
    for number in range(len(questions)):
        threading.Thread(target=ask, args=(number,), name="models", daemon=True).start()
    for _ in questions:
        if not waiting.acquire(timeout=max(0.0, until - time.monotonic())):
            break
    return list(given)


def paths_config(roots: Iterable[ModelRoot], packs: Path | None = None) -> str | None:
    """Give the text of an extra-model-paths file; None where there is nothing to tell.

    It is YAML written as JSON, which quotes every path rightly. No `base_path`: ComfyUI would take
    `$` and `~` in it for more than they are.

    Args:
        packs: a further folder of node packs.
    """
    sections: dict[str, dict[str, Any]] = {}
    for root in roots:
        told: dict[str, Any] = {}
        for name, paths in root.folders.items():
            # Each default goes before those added earlier.
            ordered = [str(path) for path in (reversed(paths) if root.own else paths)]
            if lines := [path for path in ordered if "\n" not in path]:  # it separates two paths
                told[name] = "\n".join(lines)
        if told:
            name = f"comfyfn_{len(sections)}" if sections else "comfyfn"
            sections[name] = {"is_default": root.own, **told}
    if packs is not None:
        sections["comfyfn_packs"] = {"custom_nodes": str(packs)}
    if not sections:
        return None
    text = json.dumps(sections, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda mark: _escaped(ord(mark[0])), text)


def _escaped(number: int) -> str:
    # JSON writes what is over 16 bits as two halves, which YAML takes for two characters.
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def reading_places(roots: Iterable[ModelRoot], own: Path | None) -> dict[Path, tuple[Path, ...]]:
    """Give, by root, the folders whose subfolders hold models, for `ReadAhead`.

    Args:
        own: ComfyUI's own folder of models; searched after MODEL_DIR, before the others.
    """
    listed = list(roots)
    found: dict[Path, tuple[Path, ...]] = {
        root.path: (root.path, root.path / "models") for root in listed if root.own
    }
    if own is not None:
        found.setdefault(own, (own,))
    for root in listed:
        found.setdefault(root.path, (root.path / "models", root.path))
    return found
