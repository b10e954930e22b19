"""Names of model folders, and which folder on the disk each of them means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from handler.engine.model_folders import ModelFolders

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> ModelFolders:
    """Two roots, of which the second is preferred, and a pack's folder."""
    paths = {
        "checkpoints": (tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints"),
        "loras": (tmp_path / "a" / "loras",),
        "custom_nodes": (tmp_path / "custom_nodes",),
        "remote": (),
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return ModelFolders(paths, tmp_path / "b")


def test_where_code_lies_is_no_place_for_models(folders):
    """A file put among the node packs would be run."""
    assert folders.names == ("checkpoints", "loras", "remote")
    assert folders.writable("custom_nodes") is None


def test_new_files_go_below_the_preferred_root_where_it_has_the_folder(folders, tmp_path):
    """The operator's MODEL_DIR comes first, else the engine's own order."""
    assert folders.writable("checkpoints") == tmp_path / "b" / "checkpoints"
    assert folders.writable("loras") == tmp_path / "a" / "loras"


def test_folders_out_of_reach_and_unknown_ones_take_nothing(folders):
    """An attached engine's folders are on another machine."""
    assert folders.writable("remote") is None
    assert folders.writable("vae") is None


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    """What lies there is no folder, whatever the engine says."""
    (tmp_path / "file").write_text("x")
    folders = ModelFolders({"vae": (tmp_path / "file" / "vae",)})
    assert folders.writable("vae") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_passed_over(tmp_path):
    """A volume that is mounted read-only is searched, and not written to."""
    (tmp_path / "a").mkdir(mode=0o500)
    (tmp_path / "b").mkdir()
    folders = ModelFolders({"vae": (tmp_path / "a" / "vae", tmp_path / "b" / "vae")})
    assert folders.writable("vae") == tmp_path / "b" / "vae"


def test_files_are_found_as_the_engine_finds_them(folders, tmp_path):
    """The first folder that has the name counts, subfolders and links included."""
    for root in ("a", "b"):
        (tmp_path / root / "checkpoints" / "sub").mkdir(parents=True)
    second = tmp_path / "b" / "checkpoints"
    (second / "sub" / "x.safetensors").write_text("x")
    (second / "link.ckpt").symlink_to(second / "sub" / "x.safetensors")
    assert folders.locate("checkpoints", "sub/x.safetensors") == second / "sub" / "x.safetensors"
    assert folders.locate("checkpoints", "link.ckpt") == second / "link.ckpt"
    (tmp_path / "a" / "checkpoints" / "link.ckpt").write_text("y")
    first = tmp_path / "a" / "checkpoints" / "link.ckpt"
    assert folders.locate("checkpoints", "link.ckpt") == first


@pytest.mark.parametrize("name", ["", "../x", "a/../../x", "/etc/passwd", "n\0ul", "x" * 5000])
def test_names_that_lead_outside_are_no_files(folders, name):
    """A name is looked for below the folder and nowhere else."""
    assert folders.locate("checkpoints", name) is None
