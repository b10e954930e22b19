"""A media input that names a file which the engine's input folder has already."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from handler.errors import InputFailed
from handler.graph.nearest import nearest
from handler.masking import masked
from handler.media.sniff import HEAD_BYTES, matches, sniff

if TYPE_CHECKING:
    from pathlib import Path

    from handler.engine.files import EngineFiles
    from handler.graph.media_inputs import MediaInput

# As the engine reads it: the bracket and the one character before it are no part of the name.
_ANNOTATION = re.compile(r"(?s)(.*).\[(input|output|temp)\]")


# No path and no list of files: they are not the caller's.
_FOLDER_HINTS = {"input": "the input folder is the operator's INPUT_DIR; the file can be sent, too"}


def check_stored(value: str, item: MediaInput, files: EngineFiles) -> None:
    """Make sure that the file is there and is what the node loads.

    Raises:
        InputFailed: it is not there (with the nearest names), is another medium, or the name
            leads out of the folder.
    """
    annotated = _ANNOTATION.fullmatch(value)
    name, kind = annotated.groups() if annotated else (value, "input")
    path = None if "\0" in name else files.locate({"filename": name, "type": kind})
    if path is None:
        raise InputFailed(
            f"a file name must stay inside the {kind} folder",
            hint="send the file as a URL, a data URI or base64",
        )
    if kind == "temp" or files.is_of_a_job(path):
        raise InputFailed(
            "previews and the files of jobs are not for other jobs to load",
            hint="send the file as a URL, a data URI or base64",
        )
    if not files.shared or item.is_directory:
        return  # an attached ComfyUI: only it can see its folder; directories: the engine checks
    if not _is_file(path):
        near = nearest(name, _names(files.input_root)) if kind == "input" else ()
        raise InputFailed(
            f"{masked(value[:800])[:200]!r} is neither a URL, nor a data URI, nor base64, "
            f"nor a file in the {kind} folder",
            hint=f"did you mean {', '.join(near)}?" if near else _FOLDER_HINTS.get(kind),
            details={"nearest": list(near)},
        )
    with path.open("rb") as file:
        mime = sniff(file.read(HEAD_BYTES))
    if not matches(item.wanted, mime):
        raise InputFailed(f"{item.class_type} loads {item.wanted}, but {value[:200]!r} is {mime}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # longer than any file system takes


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]
