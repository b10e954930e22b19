"""What lies in the roots of models: how many files the engine finds, and which it does not.

"The model is there, but ComfyUI cannot see it" is told with the place. Looked at after the boot, so
that it costs no start, and within bounds: a volume may hold millions of files.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from handler.engine.model_folders import NO_MODELS
from handler.engine.roots import identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from handler.engine.roots import ModelRoot

MOST_COUNTED = 20_000  # entries of searched folders, all together
MOST_LOOKED_AT = 2000  # entries outside of them, per root
DEEPEST = 3  # folders below a root
MOST_TOLD = 20
SUFFIXES = frozenset(
    {".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".gguf", ".bin", ".onnx"}
)
# Packages and caches hold files of these suffixes that nobody means to load by name.
PASSED_OVER = frozenset({"custom_nodes", "node_modules", "site-packages", "venv", "__pycache__"})


def model_report(
    roots: Sequence[ModelRoot], searched: Mapping[str, Sequence[Path]]
) -> dict[str, Any]:
    """Look into every root that answered; blocks for as long as the disks do.

    Args:
        roots: all that were tried, the engine's own folder of models among them.
        searched: by name, the folders that the engine searches, as it tells them.

    Returns:
        `roots`: path, and the counts that are not zero by folder's name, or the `problem`.
        `not_searched`: files of models outside of the searched folders. `complete`: False where a
        bound was met.
    """
    places = [path for paths in searched.values() for path in paths]
    told: list[dict[str, Any]] = []
    lost: dict[str, None] = {}
    complete, left = True, MOST_COUNTED
    for root in roots:
        if root.problem and not any(place.is_relative_to(root.path) for place in places):
            told.append({"path": str(root.path), "problem": root.problem})
            continue
        counts, looked = _counted(root.path, searched, left)
        left -= looked
        missed, all_seen = _not_searched(root.path, places)
        lost.update((str(one), None) for one in missed)
        complete = complete and left > 0 and all_seen
        told.append({"path": str(root.path), "models": counts})
    return {"roots": told, "not_searched": list(lost)[:MOST_TOLD], "complete": complete}


def in_words(report: Mapping[str, Any]) -> list[str]:
    """Give a line for each file that is there and not searched."""
    return [
        f"found {path}, but that folder is not searched: put it below models/<folder>"
        for path in report["not_searched"]
    ]


def _counted(
    root: Path, searched: Mapping[str, Sequence[Path]], limit: int
) -> tuple[dict[str, int], int]:
    counts: Counter[str] = Counter()
    looked = 0
    for name, paths in searched.items():
        for path in paths:
            if name in NO_MODELS or not path.is_relative_to(root):
                continue
            for _, entry in _walk(path):
                looked += 1
                if looked > limit:
                    return dict(counts), limit
                counts[name] += _is_model(entry)
    return {name: count for name, count in sorted(counts.items()) if count}, looked


def _not_searched(root: Path, places: Sequence[Path]) -> tuple[list[Path], bool]:
    found: list[Path] = []
    without = {known for place in places if (known := identity(place))}
    for looked, (folder, entry) in enumerate(_walk(root, without, DEEPEST)):
        if looked >= MOST_LOOKED_AT:
            return found, False
        if _is_model(entry):
            found.append(folder / entry.name)
    return found, True


def _walk(
    top: Path, without: Iterable[tuple[int, int]] = (), deepest: int | None = None
) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    """Give the entries of a folder and of those below it, nearest first; links are followed once.

    Args:
        without: devices and inodes of folders that are passed over.
    """
    seen, waiting = set(without), deque([(top, 0)])
    while waiting:
        folder, depth = waiting.popleft()
        known = identity(folder)
        if known is None or known in seen:
            continue
        seen.add(known)
        for entry in _entries(folder):
            yield folder, entry
            if (deepest is None or depth < deepest) and _is_folder(entry):
                waiting.append((folder / entry.name, depth + 1))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".") or entry.name in PASSED_OVER
    try:
        return not hidden and entry.is_dir()
    except OSError:
        return False


def _is_model(entry: os.DirEntry[str]) -> bool:
    try:
        return os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()  # noqa: PTH122
    except OSError:
        return False
