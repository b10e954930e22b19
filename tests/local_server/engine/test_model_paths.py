"""Which folders are searched for models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local_server.engine.folders import Folders
from local_server.engine.model_paths import ExtraPath, read_extra_paths, registry

if TYPE_CHECKING:
    from pathlib import Path


def test_more_folders_come_after_or_before_the_own(tmp_path: Path) -> None:
    """Older names mean the newer ones, and a new name lists files of any kind."""
    extra = [
        ExtraPath("loras", tmp_path / "after"),
        ExtraPath("loras", tmp_path / "before", first=True),
        ExtraPath("loras", tmp_path / "after"),
        ExtraPath("clip", tmp_path / "clip"),
        ExtraPath("unet", tmp_path / "unet"),
        ExtraPath("mine", tmp_path / "mine"),
    ]

    found = registry(tmp_path, extra)

    assert [path.name for path in found["loras"].folders] == ["before", "loras", "after"]
    assert [path.name for path in found["text_encoders"].folders] == ["text_encoders", "clip"]
    assert found["diffusion_models"].folders == (tmp_path / "unet", tmp_path / "diffusion_models")
    assert (found["mine"].folders, found["mine"].suffixes) == ((tmp_path / "mine",), frozenset())
    assert "test_models" not in found
    assert "test_models" in registry(tmp_path, test_faults=True)


def test_all_folders_are_searched(tmp_path: Path) -> None:
    """A file is found by the first folder that has it, and nowhere outside."""
    extra = [ExtraPath("loras", tmp_path / "more")]
    folders = Folders(tmp_path, tmp_path, tmp_path, tmp_path, registry(tmp_path, extra))
    for name in ("more", "loras"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.pt").write_text(name)
    (tmp_path / "more" / "loras.pt").write_text("the second")

    assert folders.models_in("loras") == ["loras.pt", "more.pt"]
    assert folders.model("loras", "loras.pt") == tmp_path / "loras" / "loras.pt"
    assert folders.model("loras", "more.pt") == tmp_path / "more" / "more.pt"
    assert folders.model("loras", "nowhere.pt") is None


def test_a_file_of_paths_is_read_as_comfyui_does(tmp_path: Path) -> None:
    """Sections, a base, several lines, defaults; relative folders count from base or file."""
    config = tmp_path / "paths.yaml"
    config.write_text(
        "volume:\n"
        f"  base_path: {tmp_path}/volume\n"
        "  is_default: true\n"
        "  checkpoints: models/checkpoints/\n"
        "  clip: |\n"
        "    models/clip/\n"
        "    /abs/clip\n"
        "beside:\n"
        "  loras: loras\n"
        "relative:\n"
        "  base_path: sub\n"
        "  vae: ../vae\n"
        "nothing:\n"
    )

    assert read_extra_paths(config) == [
        ExtraPath("checkpoints", tmp_path / "volume/models/checkpoints", first=True),
        ExtraPath("clip", tmp_path / "volume/models/clip", first=True),
        ExtraPath("clip", tmp_path.__class__("/abs/clip"), first=True),
        ExtraPath("loras", tmp_path / "loras"),
        ExtraPath("vae", tmp_path / "vae"),
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "a: [1]", "a: {loras: 5}", "a: {b: [}"])
def test_what_is_no_such_file_is_named(tmp_path: Path, text: str) -> None:
    """With the path of the file."""
    config = tmp_path / "bad.yaml"
    config.write_text(text)

    with pytest.raises(ValueError, match=r"bad\.yaml"):
        read_extra_paths(config)
