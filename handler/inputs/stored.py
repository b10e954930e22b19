"""A media input that names a file which the engine's input folder has already."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from handler.errors import InputFailed
from handler.graph.nearest import nearest
from handler.media.sniff import HEAD_BYTES, matches, sniff

if TYPE_CHECKING:
    from pathlib import Path

    from handler.engine.files import EngineFiles
    from handler.graph.media_inputs import MediaInput

ANNOTATION = re.compile(r" \[(input|output|temp)\]$")


def check_stored(value: str, item: MediaInput, files: EngineFiles) -> None:
    """Make sure that the file is there and is what the node loads.

    Raises:
        InputFailed: it is not there (with the nearest names), is another medium, or the name
            leads out of the folder.
    """
    if ANNOTATION.search(value) or item.is_directory:
        return  # output or temp folders, directories: the engine checks those
    folder = files.inputs_of("").resolve()
    path = (folder / value).resolve()
    if not path.is_relative_to(folder):
        raise InputFailed(
            "a file name must stay inside the input folder",
            hint="send the file as a URL, a data URI or base64",
        )
    if not files.shared:
        return  # an attached ComfyUI: only it can see its folder
    if not path.is_file():
        near = nearest(value, _names(folder))
        raise InputFailed(
            f"{value[:200]!r} is neither a URL, nor a data URI, nor base64, "
            "nor a file in the input folder",
            hint=f"did you mean {', '.join(near)}?" if near else None,
            details={"nearest": list(near)},
        )
    with path.open("rb") as file:
        mime = sniff(file.read(HEAD_BYTES))
    if not matches(item.wanted, mime):
        raise InputFailed(f"{item.class_type} loads {item.wanted}, but {value!r} is {mime}")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]
