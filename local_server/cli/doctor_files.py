"""What `comfyfn doctor` tells of model files: how many, those of no use, those nobody searches."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from handler.graph.file_kinds import is_model_name
from handler.graph.nearest import nearest
from local_server.cli.findings import Finding
from local_server.cli.sizes import counted, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from local_server.cli.model_map import ModelFileFound, ModelMap

MOST_TOLD = 10
# A volume may hold anything: the look for models that nobody searches has an end.
MOST_ENTRIES = 50_000
LONGEST_LOOK_S = 3.0
DEEPEST = 5
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pth")

# What other programs, and people, call these folders.
_OTHER_NAMES = {
    "ckpt": "checkpoints",
    "ckpts": "checkpoints",
    "codeformer": "upscale_models",
    "diffusers_models": "diffusers",
    "esrgan": "upscale_models",
    "gfpgan": "upscale_models",
    "locon": "loras",
    "lycoris": "loras",
    "realesrgan": "upscale_models",
    "stable_diffusion": "checkpoints",
    "t5": "text_encoders",
    "textual_inversion": "embeddings",
    "upscaler": "upscale_models",
    "upscalers": "upscale_models",
}
_AS_LIKE = 0.8
"""Less likeness than that is a node pack's own folder, not a slip."""


def file_findings(found: ModelMap, files: Sequence[ModelFileFound]) -> list[Finding]:
    """Look at all files of the model folders, and for those beside them.

    Args:
        files: those of all folders.
    """
    return [
        *_counts(found, files),
        *_strangers(found, files),
        *_hidden(files),
        *_wrong(found, files),
        *_unseen(found),
    ]


def meant_folder(name: str, known: Iterable[str]) -> str | None:
    """Give the model folder that a folder's name was meant to be; None for none."""
    candidates = list(known)
    other = _OTHER_NAMES.get(name.casefold().replace("-", "_").replace(" ", "_"))
    if other in candidates:
        return other
    return next(iter(nearest(name, candidates, limit=1, cutoff=_AS_LIKE)), None)


def _counts(found: ModelMap, files: Iterable[ModelFileFound]) -> list[Finding]:
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for file in files:
        there = not file.dangling and found.lists(file.folder, file.name)
        if there and file.folder in found.known:
            counts[file.folder] += 1
            sizes[file.folder] += file.bytes
    told = [f"{name} {counts[name]} ({size_text(sizes[name])})" for name in counts]
    if not told:
        return [Finding("ok", "model files", "none in any folder that is searched")]
    return [Finding("ok", "model files", ", ".join(told))]


def _strangers(found: ModelMap, files: Iterable[ModelFileFound]) -> Iterator[Finding]:
    """Tell folders that the engine is told of, and that no name of ComfyUI's means."""
    counts: collections.Counter[Path] = collections.Counter()
    for file in files:
        if file.folder not in found.known and is_model_name(file.name) and not file.dangling:
            counts[file.root] += 1
    for folder, count in counts.items():
        yield _stranger(folder, count, found)


def _stranger(folder: Path, count: int, found: ModelMap) -> Finding:
    meant = meant_folder(folder.name, found.known)
    text = f"{folder}: {counted(count, 'file')}, a folder that ComfyUI itself does not read"
    if meant is None:  # most likely one that a node pack reads
        return Finding("ok", "model files", f"{text}; a node pack may")
    return Finding("warn", "model files", f"{text}, unless a node pack does; did you mean {meant}?")


def _hidden(files: Iterable[ModelFileFound]) -> Iterator[Finding]:
    """Tell files that another one of their name stands before, in the engine's search."""
    first: dict[tuple[str, str], ModelFileFound] = {}
    told = []
    for file in files:
        if file.dangling:
            continue
        other = first.setdefault((file.folder, file.name), file)
        if other.bytes != file.bytes:
            told.append(
                f"{other.path} ({size_text(other.bytes)}) is loaded, "
                f"and hides {file.path} ({size_text(file.bytes)})"
            )
    yield from _some("same name", told)


def _wrong(found: ModelMap, files: Sequence[ModelFileFound]) -> Iterator[Finding]:
    """Tell files that are there and of no use."""
    dangling = [file.path for file in files if file.dangling]
    yield from _listed("dangling link", dangling, "the file it leads to is gone")
    left = [path for root in _searched(found) for path in _leftovers(root)]
    yield from _listed("part of a file", left, "a download that did not end; it may be removed")
    unlisted = [
        file.path
        for file in files
        if not file.dangling and not found.lists(file.folder, file.name) and _is_odd(file.name)
    ]
    yield from _listed("wrong suffix", unlisted, "the engine does not list it")


def _is_odd(name: str) -> bool:
    """Tell whether a file was meant to be a model; texts and pictures beside models are not."""
    suffix = Path(name).suffix.lower()
    return suffix in {"", ".html", ".htm", ".part", ".tmp", ".download"} or is_model_name(name)


def _leftovers(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in sorted(root.glob(".*.part")) if path.is_file()]
    return []


def _listed(topic: str, paths: Sequence[Path], why: str) -> Iterator[Finding]:
    yield from _some(topic, [f"{path}: {why}" for path in paths])


def _some(topic: str, texts: Sequence[str]) -> Iterator[Finding]:
    for text in texts[:MOST_TOLD]:
        yield Finding("warn", topic, text)
    if len(texts) > MOST_TOLD:
        yield Finding("warn", topic, f"and {len(texts) - MOST_TOLD} more")


# -- beside what is searched ----------------------------------------------------------------------


def _searched(found: ModelMap) -> dict[Path, None]:
    return {
        path: None
        for name in found.folders.names
        for path in found.folders.paths[name]
        if path.is_dir()
    }


def _unseen(found: ModelMap) -> Iterator[Finding]:
    """Tell folders with models in a root where nobody searches, and where the models belong."""
    searched = {path.resolve() for path in _searched(found)}
    bases = {root.path: None for root in found.roots if root.problem is None}
    if found.own is not None:
        bases.setdefault(found.own, None)
    counts: collections.Counter[tuple[Path, Path]] = collections.Counter()
    seen: set[Path] = set()
    for base in bases:
        for path in _models_below(base, searched):
            if path not in seen:
                seen.add(path)
                counts[base, path.parent] += 1
    # What lies in ComfyUI's own folder of models a node pack may read by its path.
    own: collections.Counter[Path] = collections.Counter()
    texts = []
    for (base, folder), count in counts.items():
        if base == found.own and folder != base:
            own[base / folder.relative_to(base).parts[0]] += count
        else:
            texts.append(_astray(base, folder, count, found))
    for folder, count in own.items():
        yield _stranger(folder, count, found)
    yield from _some("not searched", texts)


def _astray(base: Path, folder: Path, count: int, found: ModelMap) -> str:
    files = counted(count, "model file")
    if folder == base:
        return f"{folder}: {files} in no folder of their kind; move each, as to {base}/checkpoints"
    meant = meant_folder(folder.relative_to(base).parts[0], found.known)
    place = base / meant if meant else f"the folder of its kind, as {base}/checkpoints"
    return f"{folder}: {files}; move {'them' if meant else 'each'} to {place}"


def _models_below(base: Path, searched: set[Path]) -> Iterator[Path]:
    """Give model files below a folder that are in none of those searched, within bounds."""
    until, count = time.monotonic() + LONGEST_LOOK_S, 0
    for directory, below, names in os.walk(base):
        here = Path(directory)
        if here.resolve() in searched:
            below.clear()
            continue
        deep = len(here.relative_to(base).parts) >= DEEPEST
        below[:] = [] if deep else [name for name in sorted(below) if _may_hold_models(name)]
        count += len(names)
        if count > MOST_ENTRIES or time.monotonic() > until:
            return
        yield from (here / name for name in names if name.lower().endswith(WEIGHTS))


def _may_hold_models(name: str) -> bool:
    return not name.startswith(".") and name not in {
        "custom_nodes", "node_modules", "site-packages", "venv", "__pycache__",
    }  # fmt: skip
