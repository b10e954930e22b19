"""`comfyfn manifest` on a real folder, with a real interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from handler.manifest.packages import find_uv
from local_server.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI with an interpreter of its own, a pack's repository, and a model in its place."""
    comfy = tmp_path / "ComfyUI"
    (comfy / "models" / "vae").mkdir(parents=True)
    (comfy / "main.py").touch()
    (comfy / "models" / "vae" / "a.bin").write_bytes(b"weights")
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "code.py").touch()
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = T\n\temail = t@example.org\n")
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(config)}
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *words], cwd=pack, env=env, check=True, timeout=30)
    made = [str(find_uv()), "venv", "--quiet", "--python", sys.executable, str(comfy / ".venv")]
    subprocess.run(made, check=True, timeout=60)
    for name in ("MANIFEST", "MANIFEST_JSON", "COMFY_PYTHON", "MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_HOME", str(comfy))
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        f"custom_nodes: [{pack}]\n"
        "models:\n  before_start:\n    - {url: https://e.org/a.bin, folder: vae}\n"
    )
    return tmp_path


def test_check_tells_what_is_in_it_and_what_is_loose(home, capsys):
    """A manifest that is fine is summed up."""
    assert main(["manifest", "check", str(home / "m.yaml"), "--allow-local"]) == 0

    said = capsys.readouterr().out
    assert "is fine: 1 node packs, 1 models before the start" in said
    assert "line 1: pack is not pinned" in said
    assert "line 4: a.bin has no sha256" in said


def test_check_tells_every_fault_with_its_line(home, capsys):
    """One that is not ends with status 1."""
    assert main(["manifest", "check", str(home / "m.yaml")]) == 1
    assert "line 1, custom_nodes[0]" in capsys.readouterr().err


def test_manifest_of_the_environment_is_taken(home, capsys, monkeypatch):
    """`MANIFEST_JSON` wins over `MANIFEST`; without both there is an error."""
    assert main(["manifest", "check"]) == 1
    assert "no manifest is named" in capsys.readouterr().err
    monkeypatch.setenv("MANIFEST", str(home / "missing.yaml"))
    monkeypatch.setenv("MANIFEST_JSON", '{"apt": ["x"]}')
    assert main(["manifest", "check"]) == 0
    assert "MANIFEST_JSON is fine: 1 Debian packages" in capsys.readouterr().out


def test_apply_lock_and_verify(home, capsys):
    """What was applied is locked, verified, and a change is found."""
    path, local = str(home / "m.yaml"), "--allow-local"
    assert main(["manifest", "apply", path, local]) == 0
    told = capsys.readouterr()
    assert "model a.bin" in told.out
    assert "pack pack: done: installed" in told.err

    assert main(["manifest", "lock", path, local]) == 0
    assert (home / "m.lock.yaml").is_file()
    assert main(["manifest", "verify", path, local]) == 0
    assert "as locked" in capsys.readouterr().out
    assert main(["manifest", "apply", path, local, "--locked"]) == 0

    (home / "ComfyUI" / "models" / "vae" / "a.bin").write_bytes(b"weighty")
    (home / "ComfyUI" / "custom_nodes" / "pack" / "code.py").write_text("evil")
    assert main(["manifest", "verify", path, local]) == 1
    said = capsys.readouterr().out
    assert "model models/vae/a.bin is 7 bytes" in said
    assert "node pack pack is changed by hand (code.py)" in said
    assert main(["manifest", "verify", path, local, "--quick"]) == 1


def test_apply_fails_with_what_is_missing(home, capsys):
    """A model that nobody brings is an error, unless models are left out."""
    (home / "ComfyUI" / "models" / "vae" / "a.bin").unlink()
    path = str(home / "m.yaml")
    assert main(["manifest", "apply", path, "--allow-local"]) == 1
    assert "the model a.bin is not at" in capsys.readouterr().err
    assert main(["manifest", "apply", path, "--allow-local", "--skip-models"]) == 0
