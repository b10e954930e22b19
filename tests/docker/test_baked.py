"""`comfyfn-bake`: a manifest carried out while an image is built."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from live import COMFY_HOME, COMFY_PYTHON, REPO, free_port, quoted

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = [sys.executable, "-m", "local_server.engine", "--listen", "127.0.0.1"]
GOOD = "NODE_CLASS_MAPPINGS = {}\n"
BAD = "import nothing_of_that_name\n"


def make_pack(folder: Path, code: str) -> Path:
    """Make a node pack, in a git repository as they are."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code)
    (folder / "requirements.txt").write_text("leaf\n")
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "pack"]):
        subprocess.run(["git", *identity, *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def baking(build, tmp_path):
    """Bake a manifest: gives the process, after it ended."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "comfyfn").write_text(
        f'#!/bin/sh\nPYTHONPATH={REPO} exec {sys.executable} -m local_server.cli "$@"\n'
    )
    (tools / "comfyfn").chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (build.home / "main.py").write_text("")
    (build.home / "custom_nodes").mkdir()
    assert build.step("torch.sh").returncode == 0
    folders = [
        word
        for name in ("input", "output", "temp")
        for word in (f"--{name}-directory", str(tmp_path / "engine" / name))
    ]

    def bake(manifest: dict[str, object], **env: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "manifest.yaml"
        path.write_text(json.dumps(manifest))
        port = str(free_port())
        given = {
            "PATH": f"{tools}:{build.env['PATH']}",
            "PYTHONPATH": str(REPO),
            "FN_PYTHON": sys.executable,
            "MANIFEST_LOCAL_GIT": "true",
            "LOG_FORMAT": "text",
            "TMPDIR": str(scratch),
            "COMFYUI_PORT_HOST": port,
            "CMD": quoted([*ENGINE, "--port", port, *folders]),
        }
        said = build.step("bake.sh", path, **{**given, **env})
        assert list(scratch.iterdir()) == [], "nothing of the try stays in the image"
        return said

    return bake


def test_packs_and_packages_are_installed_and_models_are_not(baking, build, tmp_path):
    """They come at the start, from where they come fastest."""
    pack = make_pack(tmp_path / "packs" / "own-pack", GOOD)
    model = {"url": "https://192.0.2.1/m.bin", "folder": "vae"}
    manifest = {
        "pip": ["kornia"],
        "custom_nodes": [{"url": str(pack)}],
        "models": {"before_start": [model]},
    }
    said = baking(manifest, BAKE_CHECK="false")

    assert said.returncode == 0, said.stderr
    assert build.installed() >= {"kornia==0.8.0", "leaf==1.0", "torch==2.8.0+cu128"}
    placed = build.home / "custom_nodes" / "own-pack"
    assert list((placed / "__pycache__").glob("__init__.*.pyc"))
    assert not (build.home / "models" / "vae" / "m.bin").exists()


def test_models_are_baked_when_asked_for(baking, build, tmp_path):
    """For sites without a network."""
    (tmp_path / "m.bin").write_bytes(b"weights")
    model = {"url": (tmp_path / "m.bin").as_uri(), "folder": "vae"}
    said = baking({"models": {"before_start": [model]}}, BAKE_MODELS="true", BAKE_CHECK="false")

    assert said.returncode == 0, said.stderr
    assert (build.home / "models" / "vae" / "m.bin").read_bytes() == b"weights"


def test_comfyui_is_seen_to_boot(baking):
    """With the packages that the manifest brought."""
    said = baking({"pip": ["leaf"]})
    assert said.returncode == 0, said.stderr
    assert "ComfyUI boots" in said.stderr


def test_a_pack_that_is_not_loaded_fails_the_build(baking, tmp_path):
    """It is named."""
    pack = make_pack(tmp_path / "packs" / "own-pack", GOOD)
    said = baking({"custom_nodes": [{"url": str(pack)}]})
    assert said.returncode == 1
    assert "own-pack" in said.stderr


def test_a_manifest_with_a_fault_fails_the_build(baking, build):
    """Before anything is installed."""
    before = build.installed()
    said = baking({"pips": ["leaf"]})
    assert said.returncode == 1
    assert "pips" in said.stderr
    assert build.installed() == before


def test_a_lock_beside_it_is_held_to(baking, build, tmp_path):
    """A lock that cannot be read is an error, and not passed over."""
    (tmp_path / "manifest.lock.yaml").write_text("[")
    said = baking({"pip": ["leaf"]}, BAKE_CHECK="false")
    assert said.returncode != 0
    assert "manifest.lock.yaml" in said.stderr


@pytest.mark.comfyui
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("code", "status"), [(GOOD, 0), (BAD, 1)])
def test_a_real_comfyui_tells_whether_it_loads_a_pack(baking, build, tmp_path, code, status):
    """Booted on the CPU, as a machine that builds has no GPU."""
    home = tmp_path / "real"
    left_out = shutil.ignore_patterns(".git", "*.safetensors", "*.ckpt", "__pycache__")
    shutil.copytree(COMFY_HOME, home, ignore=left_out)
    shutil.rmtree(home / "custom_nodes")
    pack = make_pack(tmp_path / "packs" / "own-pack", code)
    (pack / "requirements.txt").unlink()
    subprocess.run(["git", "-C", str(pack), "rm", "-q", "--cached", "requirements.txt"], check=True)
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(pack), *identity, "commit", "-qm", "bare"], check=True)
    said = baking(
        {"custom_nodes": [{"url": str(pack)}]},
        CMD="",
        COMFY_HOME=str(home),
        COMFY_PYTHON=COMFY_PYTHON or sys.executable,
        COMFY_VENV=str(tmp_path / "packs"),
    )
    assert said.returncode == status, said.stderr
    if status:
        assert "own-pack" in said.stderr
        assert "nothing_of_that_name" in said.stderr
    assert (home / "custom_nodes" / "own-pack").is_dir()
