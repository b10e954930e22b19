"""Models for folders that the engine does not search."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.engine.model_folders import ModelFolders
from handler.engine.roots import Registry
from handler.manifest.schema import parse_manifest
from handler.manifest.searched import Known, strange, unfound, unsearched

FOLDERS = ModelFolders(
    {
        "loras": (Path("/comfy/models/loras"),),
        "text_encoders": (Path("/comfy/models/text_encoders"), Path("/comfy/models/clip")),
        "ultralytics_bbox": (Path("/comfy/models/ultralytics/bbox"),),
    }
)


MINE = Path("/volume/checkpoint")


def named(place):
    text = f"models:\n  before_start:\n    - {{url: https://e.org/x.bin, {place}}}\n"
    return parse_manifest(text).models


def told(place, folders=FOLDERS, known=None):
    return unsearched(named(place), folders, known)


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


@pytest.mark.parametrize("folder", ["checkpoints", "clip", "t2i_adapter/sub"])
def test_folders_of_comfyui_itself_are_not_strange(folder):
    """By name and by place."""
    assert strange(named(f"folder: {folder}"), Registry()) == []


def test_a_strange_folder_is_told_without_an_engine():
    """With what was perhaps meant; a pack may know it."""
    (line,) = strange(named("folder: checkpoint"), Registry())
    assert line == (
        "line 3: x.bin is for the folder checkpoint, which ComfyUI does not know "
        "unless a node pack registers it; did you mean checkpoints?"
    )


def test_a_folder_that_the_engine_knows_from_us_alone_is_told():
    """It was there, made for a typo; with packs only what is near to another is one."""
    folders = ModelFolders({**FOLDERS.paths, "checkpoint": (MINE,), "ipadapter": (MINE,)})
    ours = Known(told=frozenset({MINE}))
    (line,) = told("folder: checkpoint", folders, ours)
    assert "did you mean checkpoints?" in line
    assert len(told("folder: ipadapter", folders, ours)) == 1
    packs = Known(told=frozenset({MINE}), packs=True)
    assert len(told("folder: checkpoint", folders, packs)) == 1
    assert told("folder: ipadapter", folders, packs) == []
    assert told("folder: loras", folders, ours) == []
    registered = ModelFolders({"checkpoint": (MINE, Path("/comfy/models/checkpoint"))})
    assert told("folder: checkpoint", registered, ours) == []


def test_names_to_preload_are_looked_for(tmp_path):
    """With a folder's name before them, or without; files for later need not be there yet."""
    (tmp_path / "vae" / "sub").mkdir(parents=True)
    (tmp_path / "vae" / "sub" / "a.bin").touch()
    folders = ModelFolders({"vae": (tmp_path / "vae",), "loras": (tmp_path / "loras",)})
    manifest = parse_manifest(
        "models:\n"
        "  before_start: [{url: https://e.org/typed.bin, folder: vae}]\n"
        "  after_start: [{url: https://e.org/x, local_path: models/loras/other.ckpt}]\n"
        "preload: [sub/a.bin, vae/sub/a.bin, other.ckpt, loras/other.ckpt, typd.bin, loras/a.bin]\n"
    )
    assert unfound(manifest, folders) == [
        "preload: typd.bin is in no folder of models; did you mean typed.bin?",
        "preload: loras/a.bin is in no folder of models",
    ]
    assert unfound(manifest, ModelFolders({})) == []
