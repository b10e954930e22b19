"""The engine's own registry of model folders: which name means which folders on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# What lies there is run, not loaded: nobody puts files there by way of a model.
NO_MODELS = frozenset({"custom_nodes"})


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Names of model folders, as `checkpoints`, and where each is searched, in the engine's order.

    Attributes:
        paths: by name; empty where the engine's folders are not on this machine.
        preferred: folders below this one are written to first; None for none.
    """

    paths: Mapping[str, tuple[Path, ...]]
    preferred: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names that models can be put under."""
        return tuple(name for name in self.paths if name not in NO_MODELS)

    def writable(self, name: str) -> Path | None:
        """Give the folder that a new file of this kind goes to, missing ones included.

        None where the name is unknown or nothing of it can be written.
        """
        if name in NO_MODELS:
            return None
        known = self.paths.get(name, ())
        ours = [path for path in known if self.preferred and path.is_relative_to(self.preferred)]
        return next((path for path in (*ours, *known) if _can_write(path)), None)

    def locate(self, name: str, filename: str) -> Path | None:
        """Give the file that the engine would load by this name; None where there is none.

        Symbolic links are followed, names that lead outside are not.
        """
        if not filename or "\0" in filename or ".." in PurePosixPath(filename).parts:
            return None
        for folder in self.paths.get(name, ()):
            path = folder / filename
            try:
                if path.is_relative_to(folder) and path.is_file():
                    return path
            except OSError:
                continue  # longer than any file system takes
        return None


def _can_write(path: Path) -> bool:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
