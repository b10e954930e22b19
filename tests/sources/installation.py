"""A ComfyUI to install into, with the repositories, packages and files it takes from."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from dataclasses import replace

import pytest

from handler.errors import InputFailed
from handler.manifest.apply import ColdStart
from handler.manifest.build import make_tools
from handler.manifest.installer import Installer
from handler.manifest.places import Places
from handler.manifest.plan import make_plan
from handler.manifest.schema import read_manifest

WEIGHTS = b"weights" * 100
TEXT = """\
apt: [dpkg]
pip: [leaf<2]
custom_nodes:
  - https://github.com/o/alpha
  - https://github.com/o/beta/tree/feature/x
  - nice@1.0.0
  - {url: https://github.com/o/broken, optional: true}
models:
  before_start:
    - {url: https://e.org/a.bin, folder: vae}
  after_start:
    - {url: https://e.org/b.bin, local_path: models/loras/b.bin}
"""


class Shop:
    """Sells files: each takes a while, and some are sold out."""

    def __init__(self, *, seconds=0.0, missing=()):
        self.seconds = seconds
        self.missing = missing

    async def __call__(self, model, path):
        await asyncio.sleep(self.seconds)
        if model.label in self.missing:
            raise InputFailed(f"no {model.label}")
        if path.exists():
            return "there"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WEIGHTS + model.label.encode())
        if model.sha256 is not None:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
        return "fetched"


def build_site(tmp_path, repository, git_env, plain_env, registry, wheels, python):
    """A place to install into, with its sources; `site.again()` is a second, empty one."""
    alpha = repository("github.com/o/alpha")
    alpha.commit(
        {
            "requirements.txt": "branch\ntorch>=2\n",
            "install.py": "import os, pathlib, sys\n"
            "text = sys.executable + '|' + os.environ['PIP_CONSTRAINT']\n"
            "pathlib.Path('ran.log').write_text(text)\n",
            ".gitignore": "ran.log\n",
        }
    )
    beta = repository("github.com/o/beta")
    beta.commit({"x": "1"})
    beta.git("checkout", "--quiet", "-b", "feature/x")
    beta.commit({"x": "2"})
    beta.git("checkout", "--quiet", "main")
    comfy = repository("git.example.org/ComfyUI")
    comfy.commit(
        {
            "main.py": "",
            "comfyui_version.py": '__version__ = "0.3.64"\n',
            ".gitignore": "custom_nodes/\nmodels/\n",
        }
    )
    comfy.git("tag", "v0.3.64")
    registry.shelf = {("nice", "1.0.0"): {"__init__.py": "", "requirements.txt": "numpy\n"}}
    return Site(tmp_path, git_env, plain_env, registry, wheels, python, comfy, alpha)


class Site:
    def __init__(self, tmp_path, git_env, plain_env, registry, wheels, python, comfy, alpha):
        self.tmp_path = tmp_path
        self.env = {**plain_env, **git_env}
        self.registry = registry
        self.wheels = wheels
        self.python = python
        self.pristine = tmp_path / "pristine"
        shutil.copytree(python.parents[1], self.pristine, symlinks=True)
        self.alpha = alpha
        self.count = 0
        self.path = tmp_path / "manifest.yaml"
        self.again(python)
        subprocess.run(
            ["git", "clone", "--quiet", "https://git.example.org/ComfyUI", str(self.home)],
            env={**self.env},
            check=True,
            timeout=30,
        )

    def again(self, python=None):
        self.count += 1
        self.home = self.tmp_path / f"ComfyUI-{self.count}"
        if python is None:
            venv = self.tmp_path / f"venv-{self.count}"
            shutil.copytree(self.pristine, venv, symlinks=True)
            python = venv / "bin" / "python"
        self.python = python

    def manifest(self, text=TEXT):
        self.path.write_text(text)
        return read_manifest(self.path)

    def tools(self, manifest, shop=None):
        scratch = self.tmp_path / f"scratch-{self.count}"
        scratch.mkdir(exist_ok=True)
        made = make_tools(
            manifest,
            Places(models=self.home / "models", home=self.home),
            self.python,
            self.env,
            scratch,
            shop or Shop(),
            registry=self.registry,
            pip_options=("--no-index", "--find-links", str(self.wheels)),
            allow_local=True,
        )
        return replace(made, comfyui_url="https://git.example.org/ComfyUI")

    async def install(self, text=TEXT, shop=None):
        manifest = self.manifest(text)
        start = ColdStart(make_plan(manifest), Installer(manifest, self.tools(manifest, shop)))
        start.begin()
        await start.before_engine()
        await start.before_warmup()
        await start.finished()
        return manifest, start


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no Debian")
