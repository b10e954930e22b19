"""Where models lie on this machine, without a running engine."""

from __future__ import annotations

import json
import stat
import sys

import pytest

from handler.errors import NotReady
from handler.settings import Settings
from local_server.cli.model_map import model_map, will_be_made


@pytest.fixture
def home(tmp_path):
    """A folder that looks like ComfyUI, on an interpreter that tells a registry."""
    comfy = tmp_path / "comfy"
    models = comfy / "models"
    found = {
        "models_dir": str(models),
        "folders": {
            "checkpoints": [[str(models / "checkpoints")], [".safetensors", ".ckpt"]],
            "text_encoders": [[str(models / "text_encoders"), str(models / "clip")], [".bin"]],
            "custom_nodes": [[str(comfy / "custom_nodes")], []],
            "packs_own": [[str(models / "packs_own")], []],
        },
    }
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(found))})\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (models / "checkpoints").mkdir(parents=True)
    (comfy / "main.py").touch()
    return comfy


def mapped(home, **env):
    env = {"COMFY_HOME": str(home), "COMFY_PYTHON": str(home.parent / "python"), **env}
    return model_map(Settings.from_env(env), volumes=())


def test_comfyui_tells_its_own_folders(home):
    """With the suffixes that it lists, and what is no model left out."""
    found = mapped(home)
    assert found.told
    assert set(found.folders.names) == {"checkpoints", "text_encoders", "packs_own"}
    assert found.folders.paths["checkpoints"] == (home / "models" / "checkpoints",)
    assert found.lists("checkpoints", "a/x.CKPT")
    assert not found.lists("checkpoints", "x.html")
    assert found.lists("packs_own", "anything")


def test_roots_are_searched_after_comfyuis_own_and_model_dir_before(home, tmp_path):
    """Both forms of a root count; nothing is made."""
    for path in ("own/checkpoints", "own/special", "vol/models/checkpoints", "vol/clip"):
        (tmp_path / path).mkdir(parents=True)
    found = mapped(home, MODEL_DIR=str(tmp_path / "own"), MODEL_ROOTS=str(tmp_path / "vol"))
    assert found.folders.paths["checkpoints"] == (
        tmp_path / "own" / "checkpoints",
        home / "models" / "checkpoints",
        tmp_path / "vol" / "models" / "checkpoints",
    )
    assert tmp_path / "vol" / "clip" in found.folders.paths["text_encoders"]
    assert found.folders.paths["special"] == (tmp_path / "own" / "special",)
    assert found.folders.writable("checkpoints") == tmp_path / "own" / "checkpoints"
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["checkpoints", "special"]


def test_a_model_dir_counts_before_the_server_makes_it(home, tmp_path, caplog):
    """A file that is added goes where the server will look first."""
    own = tmp_path / "own"
    found = mapped(home, MODEL_DIR=str(own))
    assert found.folders.writable("text_encoders") == own / "text_encoders"
    own.mkdir()
    (own / "clip").mkdir()
    found = mapped(home, MODEL_DIR=str(own))
    assert found.folders.paths["text_encoders"][:2] == (own / "text_encoders", own / "clip")
    assert [path.name for path in own.iterdir()] == ["clip"]
    assert caplog.text == ""


def test_folders_that_only_a_node_pack_may_know_are_told_apart(home, tmp_path):
    """They are searched all the same."""
    for path in ("own/checkpoint", "vol/models/sams", "vol/models/checkpoints"):
        (tmp_path / path).mkdir(parents=True)
    found = mapped(home, MODEL_DIR=str(tmp_path / "own"), MODEL_ROOTS=str(tmp_path / "vol"))
    assert {"checkpoint", "sams"} == set(found.folders.names) - found.known


def test_a_folder_that_cannot_be_made_is_not_to_come(tmp_path):
    """One that is there is not, either."""
    (tmp_path / "file").touch()
    assert will_be_made(tmp_path / "a" / "b")
    assert not will_be_made(tmp_path)
    assert not will_be_made(tmp_path / "file" / "b")


def test_where_comfyui_does_not_tell_the_usual_names_are_taken(home):
    """It is said so."""
    (home.parent / "python").write_text("#!/bin/sh\nexit 1\n")
    found = mapped(home)
    assert not found.told
    assert home / "models" / "unet" in found.folders.paths["diffusion_models"]
    assert found.lists("loras", "x.html")


def test_the_embedded_engine_has_folders_of_its_own(tmp_path):
    """Below MODEL_DIR where that is set."""
    settings = Settings.from_env({"ENGINE": "embedded", "MODEL_DIR": str(tmp_path)})
    found = model_map(settings, volumes=())
    assert found.folders.paths["loras"] == (tmp_path / "loras",)
    assert not list(tmp_path.iterdir())


def test_an_attached_comfyui_has_its_folders_elsewhere():
    """That is an error with a hint."""
    with pytest.raises(NotReady):
        model_map(Settings.from_env({"COMFY_URL": "http://127.0.0.1:1"}), volumes=())


def test_files_are_found_through_links_and_dangling_ones_told(home, tmp_path):
    """Dot files and placeholders are no models; a ring of links ends."""
    folder = home / "models" / "checkpoints"
    (folder / "sub").mkdir()
    (folder / "sub" / "a.ckpt").write_bytes(b"12345")
    (folder / "sub" / "ring").symlink_to(folder)
    (folder / "b.ckpt").symlink_to(folder / "sub" / "a.ckpt")
    (folder / "gone.ckpt").symlink_to(tmp_path / "nowhere")
    (folder / ".x.part").touch()
    (folder / "put_checkpoints_here").touch()

    files = {file.name: file for file in mapped(home).files("checkpoints")}

    assert sorted(files) == ["b.ckpt", "gone.ckpt", "sub/a.ckpt"]
    assert files["b.ckpt"].identity == files["sub/a.ckpt"].identity
    assert files["b.ckpt"].bytes == 5
    assert files["gone.ckpt"].dangling
    assert files["gone.ckpt"].path == folder / "gone.ckpt"
