"""Real repositories, real interpreters and real packages, all made on the spot."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sources.installation import build_site
from sources.wheels import make_wheel

from handler.manifest.faults import InstallFailed
from handler.manifest.git import Git
from handler.manifest.packages import Packages, find_uv
from handler.manifest.registry import Archive


class Repository:
    """A git repository of this machine that answers to an address of the web."""

    def __init__(self, folder, env):
        self.folder = folder
        self.env = env
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words):
        done = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    def commit(self, files, message="change"):
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def git_env(tmp_path):
    """Give git's environment: its own home, and the web's addresses led to this machine."""
    home = tmp_path / "home"
    home.mkdir()
    served = tmp_path / "served"
    config = home / "gitconfig"
    hosts = ("github.com", "gitlab.com", "bitbucket.org", "git.example.org")
    config.write_text(
        "[user]\n\tname = T\n\temail = t@example.org\n"
        '[protocol "file"]\n\tallow = always\n'
        + "".join(
            f'[url "file://{served}/{host}/"]\n'
            f"\tinsteadOf = https://{host}/\n\tinsteadOf = git@{host}:\n"
            for host in hosts
        )
    )
    return {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": str(config)}


@pytest.fixture
def repository(tmp_path, git_env):
    """Make a repository: `repository("github.com/owner/repo")`."""

    def make(place):
        return Repository(tmp_path / "served" / place, git_env)

    return make


@pytest.fixture
def git(git_env):
    return Git(git_env, allow_local=True, pauses_s=())


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """A folder of small wheels for uv to find."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "torch", "2.8.0+cu128")
    make_wheel(folder, "torch", "2.9.0")
    make_wheel(folder, "torch", "2.1.0")
    make_wheel(folder, "numpy", "2.2.0")
    make_wheel(folder, "leaf", "1.0")
    make_wheel(folder, "leaf", "2.0")
    make_wheel(folder, "branch", "1.0", requires=["leaf>=1"])
    make_wheel(folder, "wants-old-leaf", "1.0", requires=["leaf<2"])
    make_wheel(folder, "wants-new-torch", "1.0", requires=["torch>=2.9"])
    return folder


@pytest.fixture(scope="session")
def plain_env(tmp_path_factory):
    """Give uv an environment of its own: no settings of this machine, a cache of the tests."""
    home = tmp_path_factory.mktemp("uv-home")
    return {"PATH": os.environ["PATH"], "HOME": str(home), "UV_CACHE_DIR": str(home / "cache")}


@pytest.fixture(scope="session")
def image(tmp_path_factory, wheels, plain_env):
    """An interpreter as an image has it: with a torch and a numpy."""
    venv = tmp_path_factory.mktemp("image") / "venv"
    uv = str(find_uv())
    made = [uv, "venv", "--quiet", "--python", sys.executable, str(venv)]
    subprocess.run(made, check=True, env=plain_env, timeout=60)
    python = str(venv / "bin" / "python")
    kept = ["torch==2.8.0+cu128", "numpy==2.2.0"]
    install = [uv, "pip", "install", "--quiet", "--python", python, "--no-index"]
    install += ["--find-links", str(wheels), *kept]
    subprocess.run(install, check=True, env=plain_env, timeout=60)
    return venv


@pytest.fixture
def python(image, tmp_path):
    """A copy of that interpreter, to be changed at will."""
    venv = tmp_path / "venv"
    shutil.copytree(image, venv, symlinks=True)
    return venv / "bin" / "python"


@pytest.fixture
def packages(python, plain_env, wheels, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = ("--no-index", "--find-links", str(wheels))
    return Packages(python, plain_env, scratch, options=options)


class ShelfRegistry:
    """A registry whose packs lie on a shelf: `(id, version) -> files`."""

    def __init__(self, shelf=None):
        self.shelf = shelf or {}
        self.repositories = {}
        self.asked = []

    async def repository(self, pack):
        if pack not in self.repositories:
            raise InstallFailed(f"the registry of ComfyUI has no pack {pack!r}")
        return self.repositories[pack]

    async def find(self, pack, version):
        self.asked.append((pack, version))
        versions = sorted(v for name, v in self.shelf if name == pack)
        if not versions or (version is not None and version not in versions):
            raise InstallFailed(f"the registry of ComfyUI has no pack {pack!r}")
        wanted = version or versions[-1]
        return Archive(pack, wanted, f"https://cdn.example.org/{pack}-{wanted}.zip")

    async def fetch(self, archive, target):
        with zipfile.ZipFile(target, "w") as packed:
            for name, text in self.shelf[archive.id, archive.version].items():
                packed.writestr(name, text)
        return hashlib.sha256(Path(target).read_bytes()).hexdigest()


@pytest.fixture
def registry():
    return ShelfRegistry()


@pytest.fixture
def site(tmp_path, repository, git_env, plain_env, registry, wheels, python):
    """A place to install into, with its sources; `site.again()` is a second, empty one."""
    return build_site(tmp_path, repository, git_env, plain_env, registry, wheels, python)
