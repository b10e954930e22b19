"""ComfyUI's registry of model folders, asked without ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from live import COMFY_HOME, COMFY_PYTHON, REPO

PROBE = REPO / "handler" / "engine" / "probe_folders.py"
# What a registry looks like, with a parser that must not see the probe's arguments.
MODULE = """
import argparse, logging, os, socket
argparse.ArgumentParser().parse_args()
logging.warning("a registry may talk")
base = os.path.dirname(os.path.realpath(__file__))
models_dir = os.path.join(base, "models")
folder_names_and_paths = {
    "checkpoints": ([os.path.join(models_dir, "checkpoints")], {".ckpt", ".bin"}),
    "classifiers": ([os.path.join(models_dir, "classifiers")], {""}),
}
"""
LOADER = """
import folder_paths
def load_extra_path_config(path):
    with open(path) as file:
        name, where = file.read().split()
    folder_paths.folder_names_and_paths[name] = ([where], set())
"""


@pytest.fixture
def home(tmp_path):
    """A folder with what the probe imports."""
    (tmp_path / "folder_paths.py").write_text(MODULE)
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "extra_config.py").write_text(LOADER)
    return tmp_path


def ask(home, python=sys.executable):
    command = [python, "-B", str(PROBE), str(home)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    return json.loads(said.stdout), said.stderr


def test_names_folders_and_suffixes_are_told(home):
    """As the registry has them."""
    found, _ = ask(home)

    assert found == {
        "models_dir": f"{home}/models",
        "folders": {
            "checkpoints": [[f"{home}/models/checkpoints"], [".bin", ".ckpt"]],
            "classifiers": [[f"{home}/models/classifiers"], [""]],
        },
    }


def test_what_extra_model_paths_add_is_told(home):
    """ComfyUI reads that file by itself."""
    (home / "extra_model_paths.yaml").write_text("mine /volume/mine")
    found, _ = ask(home)

    assert found["folders"]["mine"] == [["/volume/mine"], []]


def test_a_broken_extra_file_is_left_out(home):
    """ComfyUI will say so, too; the rest is known all the same."""
    (home / "extra_model_paths.yaml").write_text("a")
    found, said = ask(home)

    assert "checkpoints" in found["folders"]
    assert "extra_model_paths.yaml: not enough values" in said


def test_nothing_is_written(home):
    """An image's ComfyUI stays as it is."""
    ask(home)
    assert not list(home.rglob("__pycache__"))


@pytest.mark.comfyui
def test_a_real_comfyui_tells_its_registry():
    """Without torch, and within a moment."""
    found, _ = ask(COMFY_HOME, COMFY_PYTHON or sys.executable)

    assert found["models_dir"] == f"{COMFY_HOME}/models"
    assert {"checkpoints", "loras", "vae", "text_encoders"} <= found["folders"].keys()
    assert found["folders"]["text_encoders"][0][-1].endswith("/clip")
