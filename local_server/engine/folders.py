"""Where the engine's files lie: ComfyUI's folders, file references and names for new files."""

from __future__ import annotations

import mimetypes
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from local_server.engine.model_paths import Searched, registry

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SavePlace:
    """Where a node writes its next files.

    Attributes:
        folder: absolute folder, made if it was missing.
        name: the prefix's base name.
        counter: number of the first new file.
        subfolder: the folder relative to the medium's root, as told to clients.
    """

    folder: Path
    name: str
    counter: int
    subfolder: str


@dataclass(frozen=True, slots=True)
class Folders:
    """The engine's four folders, all absolute, and all that are searched for models.

    Attributes:
        searched: by the name of the model folder; ComfyUI's own below `models` by default.
    """

    input: Path
    output: Path
    temp: Path
    models: Path
    searched: Mapping[str, Searched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.searched:
            object.__setattr__(self, "searched", registry(self.models))

    def of_type(self, kind: str) -> Path | None:
        """Give the folder that a file reference's `type` names, None for an unknown word."""
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def split_annotation(self, name: str) -> tuple[str, Path | None]:
        """Take `[output]`, `[input]` or `[temp]` off a file name, and give that folder."""
        for kind in ("output", "input", "temp"):
            if name.endswith(f"[{kind}]"):
                # One more character: the blank before the bracket.
                return name[: -len(kind) - 3], self.of_type(kind)
        return name, None

    def annotated(self, name: str) -> Path:
        """Give the path that a name in a graph means, in the input folder by default."""
        bare, folder = self.split_annotation(name)
        return (folder or self.input) / bare

    def input_files(self) -> list[str]:
        """List the files of the input folder's top level."""
        return sorted(entry.name for entry in os.scandir(self.input) if entry.is_file())

    def input_images(self) -> list[str]:
        """List those files that are images by their name."""
        return [name for name in self.input_files() if _is_image(name)]

    def models_in(self, folder: str) -> list[str]:
        """List a model folder by name, links followed, nothing opened.

        Raises:
            KeyError: no such folder name.
        """
        searched = self.searched[folder]
        suffixes = searched.suffixes
        found: set[str] = set()
        for root in searched.folders:
            for directory, below, names in os.walk(root, followlinks=True):
                below[:] = [name for name in below if name != ".git"]
                found.update(
                    os.path.relpath(Path(directory, name), root)
                    for name in names
                    if not suffixes or Path(name).suffix.lower() in suffixes
                )
        return sorted(found)

    def model(self, folder: str, name: str) -> Path | None:
        """Find a model file by its name in a folder; None where there is none."""
        inside = os.path.relpath(Path("/", name), "/")
        paths = (root / inside for root in self.searched[folder].folders)
        return next((path for path in paths if path.is_file()), None)

    def place_for(self, root: Path, prefix: str, width: int = 0, height: int = 0) -> SavePlace:
        """Find folder, name and counter for new files of a filename prefix.

        Raises:
            Exception: the prefix leads outside `root`.
            OSError: the folder cannot be made or read.
        """
        prefix = os.path.normpath(_fill_in(prefix, width, height))
        subfolder, name = os.path.split(prefix)
        folder = Path(os.path.normpath(root / subfolder))
        if not folder.is_relative_to(root):
            raise Exception(  # noqa: TRY002 - clients are told this class
                "**** ERROR: Saving image outside the output folder is not allowed."
                f"\n full_output_folder: {folder}\n         output_dir: {root}"
                f"\n         commonpath: {os.path.commonpath((root, folder))}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [_number(entry.name, name) for entry in os.scandir(folder)]
        return SavePlace(folder, name, max(numbers, default=0) + 1, subfolder)


def _is_image(name: str) -> bool:
    # Not in every system's table of types.
    return name.endswith(".webp") or (mimetypes.guess_type(name, strict=False)[0] or "").startswith(
        "image/"
    )


def _fill_in(prefix: str, width: int, height: int) -> str:
    """Replace `%width%`, `%year%` and their like."""
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    for word, value in values.items():
        prefix = prefix.replace(f"%{word}%", value)
    return prefix


def _number(entry: str, name: str) -> int:
    """Read the counter of `name_00012_.png`, 0 for files of another prefix."""
    head, rest = entry[: len(name) + 1], entry[len(name) + 1 :]
    digits = rest.split("_")[0]
    return int(digits) if head == f"{name}_" and digits.isdecimal() else 0
