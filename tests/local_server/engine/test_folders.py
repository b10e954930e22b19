from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from local_server.engine.folders import Folders
from local_server.engine.model_paths import MODEL_FOLDERS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))
    made.input.mkdir()
    made.output.mkdir()
    return made


def test_file_references_name_their_folder(folders: Folders) -> None:
    """A name means the input folder unless it says another one."""
    assert folders.annotated("sub/a.png") == folders.input / "sub/a.png"
    assert folders.annotated("a.png [output]") == folders.output / "a.png"
    assert folders.annotated("a.png [temp]") == folders.temp / "a.png"
    assert folders.split_annotation("a.png [input]") == ("a.png", folders.input)
    assert folders.of_type("models") is None


def test_only_pictures_of_the_top_level_are_choices(folders: Folders) -> None:
    """Subfolders and other files are left out, by name alone."""
    (folders.input / "sub").mkdir()
    for name in ("b.png", "a.webp", "c.txt", "d", "e.jpeg", "sub/f.png", "g.mp4"):
        (folders.input / name).touch()

    assert folders.input_images() == ["a.webp", "b.png", "e.jpeg"]
    assert folders.input_files() == ["a.webp", "b.png", "c.txt", "d", "e.jpeg", "g.mp4"]


def test_counters_go_on_from_the_files_present(folders: Folders) -> None:
    """The highest number of the same prefix counts, whatever the suffix."""
    for name in ("x_00001_.png", "x_00009_.webp", "xy_00042_.png", "x_abc.png", "x_00003.png"):
        (folders.output / name).touch()

    assert folders.place_for(folders.output, "x").counter == 10
    assert folders.place_for(folders.output, "xy").counter == 43
    assert folders.place_for(folders.output, "new").counter == 1


def test_a_prefix_may_have_folders_and_sizes(folders: Folders) -> None:
    """Folders are made, and tokens are filled in."""
    place = folders.place_for(folders.output, "a/%year%/%width%x%height%", 64, 32)

    assert place.folder == folders.output / "a" / str(time.localtime().tm_year)
    assert place.folder.is_dir()
    assert place.name == "64x32"
    assert place.subfolder == f"a/{time.localtime().tm_year}"


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/tmp/x"])
def test_a_prefix_cannot_leave_its_folder(folders: Folders, prefix: str) -> None:
    """ComfyUI's words for it name both folders."""
    with pytest.raises(Exception, match="outside the output folder is not allowed") as caught:
        folders.place_for(folders.output, prefix)

    assert type(caught.value) is Exception
    assert f"output_dir: {folders.output}" in str(caught.value)


def test_models_are_listed_by_name_alone(folders: Folders, tmp_path: Path) -> None:
    """Links, broken links, empty and hidden files count; other suffixes and .git do not."""
    root = folders.models / "checkpoints"
    elsewhere = tmp_path / "elsewhere"
    for folder in (root / "sub", root / ".git", elsewhere):
        folder.mkdir(parents=True)
    for path in ("a.safetensors", "sub/b.CKPT", ".h.pt", "c.safetensors.part", "readme.txt"):
        (root / path).touch()
    (root / ".git" / "d.pt").touch()
    (elsewhere / "far.sft").touch()
    (root / "link").symlink_to(elsewhere)
    (root / "broken.bin").symlink_to(tmp_path / "nowhere")

    listed = folders.models_in("checkpoints")

    assert listed == [".h.pt", "a.safetensors", "broken.bin", "link/far.sft", "sub/b.CKPT"]


def test_a_model_folder_may_have_two_places(folders: Folders) -> None:
    """Text encoders are found under their new and their old folder."""
    for place in ("text_encoders", "clip"):
        (folders.models / place).mkdir(parents=True)
        (folders.models / place / f"{place}.safetensors").touch()

    assert folders.models_in("text_encoders") == ["clip.safetensors", "text_encoders.safetensors"]
    assert len(MODEL_FOLDERS) == 20
