"""Where models lie on this machine, without a running engine; nothing is made or changed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine import roots
from handler.engine.command import engine_kind, folders, interpreter
from handler.engine.model_folders import NO_MODELS, ModelFolders
from handler.engine.preflight import model_folders
from handler.errors import NotReady
from handler.graph.file_kinds import is_model_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from handler.settings import Settings

MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class ModelFileFound:
    """A file in a model folder.

    Attributes:
        folder: the engine's name of the folder, as `checkpoints`.
        name: relative to `root`.
        bytes: of what a link leads to; 0 for a dangling one.
        dangling: it is a link that leads nowhere.
        identity: device and inode, to know the same file by two names.
    """

    folder: str
    name: str
    root: Path
    bytes: int
    dangling: bool = False
    identity: tuple[int, int] = (0, 0)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.name


@dataclass(frozen=True, slots=True)
class ModelMap:
    """The model folders by name, and the roots they come from.

    Attributes:
        own: the folder of models that the engine searches by itself; None where none is known.
        roots: the others, as they were found.
        suffixes: by folder, what the engine lists there, lower case; empty for anything.
        told: ComfyUI itself told its folders; else they are the usual ones.
        known: the folders that ComfyUI itself reads; of the others only a node pack may know.
    """

    folders: ModelFolders
    own: Path | None
    roots: tuple[roots.ModelRoot, ...] = ()
    suffixes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    told: bool = True
    known: frozenset[str] = frozenset()

    def files(self, folder: str) -> Iterator[ModelFileFound]:
        """Give the files of a folder, dangling links too, but no dot files and placeholders."""
        seen: set[tuple[int, int]] = set()
        for root in self.folders.paths.get(folder, ()):
            for path in _files_below(root, seen):
                name = path.relative_to(root).as_posix()
                try:
                    status = path.stat()
                except OSError:
                    yield ModelFileFound(folder, name, root, 0, dangling=True)
                else:
                    identity = (status.st_dev, status.st_ino)
                    yield ModelFileFound(folder, name, root, status.st_size, identity=identity)

    def lists(self, folder: str, name: str) -> bool:
        """Tell whether the engine lists a file of that name there, as far as is known."""
        suffixes = self.suffixes.get(folder, frozenset())
        return not suffixes or Path(name).suffix.lower() in suffixes or "folder" in suffixes


def model_map(settings: Settings, volumes: Sequence[Path] = roots.DEFAULT_VOLUMES) -> ModelMap:
    """Find out where the engine of these settings looks for models.

    Args:
        volumes: roots that count where they exist.

    Raises:
        BootFailed: there is no engine.
        NotReady: it runs elsewhere.
    """
    kind = engine_kind(settings, embedded_allowed=True)
    if kind == "attached":
        raise NotReady(
            "the folders of an attached ComfyUI are not on this machine",
            hint="run this where COMFY_URL's ComfyUI runs, with COMFY_HOME",
        )
    where = folders(settings, kind, Path()).models
    home = settings.comfy_home
    if kind == "embedded":
        assert where is not None
        from local_server.engine.model_paths import registry

        known = registry(where)
        paths = {name: list(one.folders) for name, one in known.items()}
        suffixes = {name: one.suffixes for name, one in known.items()}
        own: Path | None = where
        told = True
        names = roots.Registry(paths=tuple(path for some in paths.values() for path in some))
    else:
        own = None if home is None else home / "models"
        answer = None if home is None else model_folders(interpreter(settings), home)
        told = answer is not None
        names = roots.Registry() if answer is None else roots.registry_of(answer)
        paths, suffixes = _as_told(answer["folders"]) if answer else (_usual(own), {})
    found = _surveyed(settings, own, names, volumes)
    read = frozenset(paths) | frozenset(names.places)
    for root in found:
        for name, more in root.folders.items():
            there = paths.setdefault(name, [])
            paths[name] = [*more, *there] if root.own else [*there, *more]
    kept = {name: tuple(dict.fromkeys(some)) for name, some in paths.items()}
    return ModelMap(ModelFolders(kept, where), own, tuple(found), suffixes, told, read)


def _as_told(
    answer: Mapping[str, Sequence[Sequence[str]]],
) -> tuple[dict[str, list[Path]], dict[str, frozenset[str]]]:
    paths = {name: [Path(path) for path in given[0]] for name, given in answer.items()}
    return paths, {name: frozenset(given[1]) for name, given in answer.items()}


def _usual(own: Path | None) -> dict[str, list[Path]]:
    if own is None:
        return {}
    return {name: [own / place for place in some] for name, some in roots.USUAL_PLACES.items()}


def _surveyed(
    settings: Settings, own: Path | None, names: roots.Registry, volumes: Sequence[Path]
) -> list[roots.ModelRoot]:
    """Look at the roots; MODEL_DIR as at one of the others, for whose folders nothing is made."""
    listed = roots.candidates(settings.model_dir, own, settings.model_roots, volumes)
    there = [replace(root, own=False) for root in listed if not _is_to_come(root)]
    found = {root.path: root for root in roots.survey(there, names)}
    looked = [found.get(root.path, root) for root in listed]
    both = zip(listed, looked, strict=True)
    return [_with_own_names(seen, names) if was.own else seen for was, seen in both]


def _is_to_come(root: roots.ModelRoot) -> bool:
    return root.own and will_be_made(root.path)


def _with_own_names(root: roots.ModelRoot, names: roots.Registry) -> roots.ModelRoot:
    """Add the folders of MODEL_DIR that the server would make, or node packs may ask for."""
    more = {}
    if root.problem is None and root.path.is_dir():
        for path in sorted(root.path.iterdir()):
            known = path.name in names.folders or path.name in {"models", *NO_MODELS}
            if path.is_dir() and not known and not path.name.startswith("."):
                more[path.name] = (path,)
    elif not will_be_made(root.path):
        return replace(root, own=True)
    made = {name: _to_be_made(root, name, places) for name, places in names.places.items()}
    folders = {**more, **root.folders, **{name: some for name, some in made.items() if some}}
    return replace(root, own=True, folders=folders, problem=None)


def will_be_made(folder: Path) -> bool:
    """Tell whether a folder is not there, and can be made."""
    if folder.exists() or folder.is_symlink():
        return False
    there = next(path for path in folder.absolute().parents if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _to_be_made(root: roots.ModelRoot, name: str, places: Sequence[str]) -> tuple[Path, ...]:
    """Give the folders of a name in the server's order, with those that are not there yet."""
    there = root.folders.get(name, ())
    paths = [root.path / place for place in places]
    wanted = [path for path in paths if path in there or not path.exists()]
    return tuple(dict.fromkeys((*wanted, *there)))


def _files_below(root: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Walk a folder, links followed, each folder once."""
    count = 0
    for directory, below, names in os.walk(root, followlinks=True):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory, name)
            if name.startswith(".") or (name.startswith("put_") and not is_model_name(name)):
                continue  # ComfyUI's folders say `put_loras_here`
            count += 1
            if count > MOST_FILES:
                return
            yield path
