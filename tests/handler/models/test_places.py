"""Where files of a model folder may be put."""

from __future__ import annotations

import pytest

from handler.engine.model_folders import ModelFolders
from handler.errors import InputFailed, InvalidPayload
from handler.models.places import check_shared, folder_named, own_file, root_of


@pytest.fixture
def folders(tmp_path):
    names = ("loras", "diffusion_models", "diffusers", "custom_nodes")
    return ModelFolders({name: (tmp_path / name,) for name in names})


def test_folders_are_known_by_their_older_names(folders):
    """And others are not known; the hint lists those that are."""
    assert folder_named(folders, "loras") == "loras"
    assert folder_named(folders, "unet") == "diffusion_models"
    for name in ("clip", "custom_nodes", "../loras"):
        with pytest.raises(InvalidPayload) as caught:
            folder_named(folders, name)
        assert caught.value.location == "model_type"
        assert caught.value.hint == "it has diffusers, diffusion_models, loras"
    with pytest.raises(InputFailed, match="folders of many files"):
        folder_named(folders, "diffusers")


def test_a_folder_that_cannot_be_written_is_told_with_its_places(tmp_path, folders):
    """Here by a file that is in the way."""
    assert root_of(folders, "loras") == tmp_path / "loras"
    (tmp_path / "loras").touch()
    with pytest.raises(InputFailed, match=str(tmp_path / "loras")) as caught:
        root_of(folders, "loras")
    assert caught.value.blame == "image"
    with pytest.raises(InputFailed, match="no folder here"):
        root_of(ModelFolders({"loras": ()}), "loras")


def test_an_engine_elsewhere_has_no_places(folders):
    """It tells names only."""
    check_shared(folders)
    with pytest.raises(InputFailed, match="not on this machine"):
        check_shared(ModelFolders({"loras": ()}))


def test_paths_into_a_model_folder_are_its_files(tmp_path, folders):
    """As paths and as URLs; nothing outside, and nothing that is not there."""
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    (tmp_path / "loras" / "sub" / "a b.pt").touch()
    (tmp_path / "outside.pt").touch()
    path = f"{tmp_path}/loras/sub/a b.pt"

    assert own_file(path, folders, ["diffusers", "loras"]) == ("loras", "sub/a b.pt")
    assert own_file(f"file://{path.replace(' ', '%20')}", folders, ["loras"]) is not None
    others = [f"{tmp_path}/loras/gone.pt", f"{tmp_path}/loras/../outside.pt", "http://h/a.pt"]
    for url in (*others, "file://host/a", "http://[bad", f"{tmp_path}/outside.pt"):
        assert own_file(url, folders, ["loras"]) is None
    assert own_file(path, folders, ["diffusers"]) is None
