"""Models for folders that the engine does not search."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.engine.model_folders import ModelFolders
from handler.manifest.schema import parse_manifest
from handler.manifest.searched import unsearched

FOLDERS = ModelFolders(
    {
        "loras": (Path("/comfy/models/loras"),),
        "text_encoders": (Path("/comfy/models/text_encoders"), Path("/comfy/models/clip")),
        "ultralytics_bbox": (Path("/comfy/models/ultralytics/bbox"),),
    }
)


def told(place, folders=FOLDERS):
    text = f"models:\n  before_start:\n    - {{url: https://e.org/x.bin, {place}}}\n"
    return unsearched(parse_manifest(text).models, folders)


@pytest.mark.parametrize(
    "folder", ["loras", "loras/styles", "clip", "ultralytics_bbox", "ultralytics/bbox"]
)
def test_folders_by_name_and_on_disk_are_known(folder):
    """Older names and those of node packs, too."""
    assert told(f"folder: {folder}") == []


@pytest.mark.parametrize(
    ("folder", "meant"), [("lora", "; did you mean loras?"), ("ultralytics", "")]
)
def test_others_are_told_with_what_was_perhaps_meant(folder, meant):
    """A file there would never be seen."""
    (line,) = told(f"folder: {folder}")
    known = f"line 3: x.bin is for the folder {folder}, which the engine does not search"
    assert line.startswith(known + meant)


def test_what_cannot_be_known_is_left_alone():
    """A place of somebody's own, and an engine elsewhere."""
    assert told("local_path: models/insightface/x.bin") == []
    assert told("folder: lora", ModelFolders({"loras": ()})) == []
