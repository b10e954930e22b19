"""What the image's steps work on: a ComfyUI of a few files, packages, an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfiles import STEPS
from live import REPO
from sources.wheels import make_wheel

PROGRAM = "import sys\nimport torch\nprint('ComfyUI', torch.VERSION, *sys.argv[1:])\n"


class Build:
    """Runs steps as the Dockerfile does, in folders of its own."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.home, self.venv = folder / "ComfyUI", folder / "comfy-venv"
        self.home.mkdir()
        # As whoever builds behind a mirror of their own has it.
        config = folder / "uv.toml"
        config.write_text(f'no-index = true\noffline = true\nfind-links = ["{wheels}"]\n')
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "COMFY_HOME": str(self.home),
            "COMFY_VENV": str(self.venv),
            "COMFY_PYTHON": str(self.venv / "bin" / "python"),
            "PYTHON": sys.executable,
            "RUN_AS": str(os.getuid()),
            "FLAVOUR": "runtime",
            "TORCH": "2.8.0",
            "TORCHVISION": "0.23.0",
            "TORCHAUDIO": "2.8.0",
            "CUDA": "12.8",
            "UV_CACHE_DIR": str(folder / "uv-cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_CONFIG_FILE": str(config),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def step(self, name: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        program = ["bash"] if name.endswith(".sh") else [sys.executable, "-I"]
        return subprocess.run(
            [*program, str(STEPS / name), *map(str, arguments)],
            env={**self.env, **env},
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
            timeout=55,
        )

    def installed(self) -> set[str]:
        """Name what is in ComfyUI's virtual environment, `name==version`."""
        return {
            path.name.removesuffix(".dist-info").replace("-", "==")
            for path in self.venv.glob("lib/python*/site-packages/*.dist-info")
        }


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """Stand-ins of what ComfyUI needs, of several versions."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (
        *(("torch", "2.8.0+cu128"), ("torch", "2.9.0")),
        *(("torchvision", "0.23.0"), ("torchaudio", "2.8.0")),
        *(("leaf", "1.0"), ("pip", "26.0")),
    ):
        make_wheel(folder, name, version)
    make_wheel(folder, "kornia", "0.8.0", requires=["torch>=2"])
    return folder


@pytest.fixture
def build(tmp_path, wheels) -> Build:
    folder = tmp_path / "root"
    folder.mkdir()
    return Build(folder, wheels)


@pytest.fixture
def comfyui(tmp_path) -> Path:
    """A git repository with a ComfyUI of two versions."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words: str) -> str:
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *identity, *words],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull},
            timeout=30,
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=master")
    for version in ("0.3.64", "0.3.65"):
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
        (folder / "main.py").write_text(PROGRAM)
        (folder / "requirements.txt").write_text("torch\ntorchvision\nkornia>=0.7\nleaf\n")
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models" / "put_models_here").write_text("")
        git("add", "--all")
        git("commit", "--quiet", "--message", version)
        git("tag", f"v{version}")
    return folder
