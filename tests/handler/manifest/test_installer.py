"""A manifest from its text to a machine that has it all, locked, verified, and made again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import replace

import pytest

from handler.errors import InputFailed
from handler.manifest.apply import ColdStart
from handler.manifest.apt import Apt
from handler.manifest.build import make_tools
from handler.manifest.faults import InstallFailed
from handler.manifest.installer import Installer
from handler.manifest.lock import Lock, LockedModel, freeze, lock_path, read_lock, write_lock
from handler.manifest.places import Places
from handler.manifest.plan import make_plan
from handler.manifest.schema import read_manifest
from handler.manifest.verify import compare, observe, take_lock

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


@pytest.fixture
def site(tmp_path, repository, git_env, plain_env, registry, wheels, python):
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


@needs_dpkg
async def test_everything_is_installed_and_the_second_time_costs_nothing(site):
    """Packs, packages, scripts and files are there; a broken optional pack is a warning."""
    _, start = await site.install()
    outcomes = {record.name: record.outcome for record in start.timeline.records}

    assert outcomes.pop("pack broken") == "warned"
    assert outcomes.pop("install.py broken") == "skipped"
    assert set(outcomes.values()) == {"done"}
    nodes = site.home / "custom_nodes"
    assert sorted(os.listdir(nodes)) == ["alpha", "beta", "nice"]
    assert (nodes / "beta" / "x").read_text() == "2"
    ran = (nodes / "alpha" / "ran.log").read_text()
    assert ran.startswith(f"{site.python}|")
    assert (site.home / "models" / "vae" / "a.bin").read_bytes().startswith(WEIGHTS)
    assert (site.home / "models" / "loras" / "b.bin").exists()

    (nodes / "alpha" / "ran.log").unlink()
    begun = time.monotonic()
    _, start = await site.install()
    notes = {record.name: record.note for record in start.timeline.records}
    assert notes["pip"] == "all there"
    assert not (nodes / "alpha" / "ran.log").exists()
    assert time.monotonic() - begun < 5


@needs_dpkg
async def test_downloads_overlap_the_installation(site):
    """The whole takes as long as the longer of both, and the chart shows it."""
    _, start = await site.install(shop=Shop(seconds=0.6))
    records = {record.name: record for record in start.timeline.records}

    assert records["model a.bin"].start < records["apt"].end
    assert records["model a.bin"].start < records["pip"].start < records["later b.bin"].start
    assert "model a.bin" in start.timeline.chart()


async def test_a_pack_that_would_replace_torch_stops_the_start_by_name(site):
    """Before anything is installed."""
    site.alpha.commit({"requirements.txt": "torch==2.1.0\n"})
    text = "custom_nodes: [https://github.com/o/alpha]\n"
    with pytest.raises(InstallFailed, match=r"node pack alpha: requirements.txt:1 .*torch") as got:
        await site.install(text)
    assert got.value.details[0]["step"] == "pip"


async def test_a_script_that_replaces_torch_is_named(site):
    """What the resolver kept, an install.py may not undo unseen."""
    script = (
        "import pathlib, shutil, sysconfig\n"
        "site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "shutil.rmtree(next(site.glob('torch-*.dist-info')))\n"
    )
    site.alpha.commit({"install.py": script, "requirements.txt": ""})
    with pytest.raises(InstallFailed, match=r"install.py of alpha replaced torch .* by nothing"):
        await site.install("custom_nodes: [https://github.com/o/alpha]\n")


async def test_a_file_outside_of_every_root_is_refused(site):
    """An absolute place must lie in ComfyUI's folder or a model root."""
    text = "models:\n  before_start:\n    - {url: https://e.org/a, local_path: /etc/a.bin}\n"
    with pytest.raises(InstallFailed, match="outside of COMFY_HOME"):
        await site.install(text)


async def test_comfyui_is_brought_to_its_version_or_cloned(site):
    """An existing one of that version costs nothing; where there is none it is cloned."""
    _, start = await site.install("comfyui: 0.3.64\n")
    assert start.timeline.records[0].note == "is 0.3.64"

    site.again()
    _, start = await site.install("comfyui: v0.3.64\ncustom_nodes: [https://github.com/o/alpha]\n")
    assert start.timeline.records[0].note == "now 0.3.64"
    assert (site.home / "custom_nodes" / "alpha").is_dir()


async def test_another_comfyui_that_cannot_be_moved_is_told(site):
    """A copy without history stays what it is."""
    shutil.rmtree(site.home / ".git")
    with pytest.raises(InstallFailed, match=r"is 0.3.64, the manifest wants 0.3.60"):
        await site.install("comfyui: 0.3.60\n")


@needs_dpkg
async def test_a_lock_makes_the_same_again(site):
    """From the lock an empty place becomes the same, although the sources have moved on."""
    manifest, _ = await site.install()
    lock = await take_lock(manifest, site.tools(manifest))
    write_lock(lock, lock_path(manifest))
    assert lock_path(manifest).name == "manifest.lock.yaml"
    site.alpha.commit({"new": "x"})

    site.again()
    manifest = site.manifest()
    locked = read_lock(lock_path(manifest))
    frozen, tools = freeze(manifest, locked, site.tools(manifest))
    start = ColdStart(make_plan(frozen), Installer(frozen, tools))
    start.begin()
    await start.before_warmup()
    await start.finished()

    assert compare(locked, await observe(manifest, tools)) == []
    assert locked == replace(lock, changed={})


@needs_dpkg
async def test_verify_finds_each_tampering(site, packages):
    """ComfyUI, a pack's commit, a pack's file, a package, a model, a stray pack: each is told."""
    manifest, _ = await site.install()
    tools = site.tools(manifest)
    lock = await take_lock(manifest, tools)
    assert compare(lock, await observe(manifest, tools)) == []

    nodes = site.home / "custom_nodes"
    (site.home / "main.py").write_text("evil")
    (nodes / "alpha" / "install.py").write_text("evil")
    (nodes / "nice" / "__init__.py").write_text("evil")
    shutil.rmtree(nodes / "beta")
    (nodes / "stray").mkdir()
    next(site.python.parents[1].glob("lib/*/site-packages/leaf-1.0.dist-info")).rename(
        next(site.python.parents[1].glob("lib/*/site-packages")) / "leaf-1.5.dist-info"
    )
    model = site.home / "models" / "vae" / "a.bin"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    (site.home / "models" / "loras" / "b.bin").unlink()
    found = compare(lock, await observe(manifest, tools))

    assert {(one.kind, one.name) for one in found} == {
        ("comfyui", "ComfyUI"),
        ("node pack", "alpha"),
        ("node pack", "beta"),
        ("node pack", "nice"),
        ("node pack", "stray"),
        ("package", "leaf"),
        ("model", "models/vae/a.bin"),
        ("model", "models/loras/b.bin"),
    }
    told = "\n".join(map(str, found))
    assert "package leaf is 1.5, not 1.0" in told
    assert "model models/loras/b.bin is missing" in told
    assert "node pack stray is not in the lock" in told

    quick = compare(lock, await observe(manifest, tools, hashes=False))
    assert "models/vae/a.bin" not in {one.name for one in quick}


@needs_dpkg
async def test_a_lock_needs_everything_in_place(site):
    """What is missing is named; a file changed by hand cannot be locked."""
    manifest, _ = await site.install()
    (site.home / "models" / "vae" / "a.bin").unlink()
    with pytest.raises(InstallFailed, match=r"not installed whole: model models/vae/a.bin"):
        await take_lock(manifest, site.tools(manifest))

    (site.home / "models" / "vae" / "a.bin").write_bytes(b"x")
    (site.home / "custom_nodes" / "alpha" / "install.py").write_text("mine")
    with pytest.raises(InstallFailed, match=r"changed by hand: alpha \(install.py\)"):
        await take_lock(manifest, site.tools(manifest))


async def test_a_lock_of_another_manifest_is_refused(site):
    """An edited manifest needs a new lock."""
    manifest = site.manifest("pip: [leaf]\n")
    with pytest.raises(InstallFailed, match="another text"):
        freeze(manifest, Lock(manifest="old"), site.tools(manifest))


@pytest.mark.parametrize("name", ["m.lock.yaml", "m.lock.json"])
def test_a_lock_is_written_whole_and_read_back(tmp_path, name):
    """Both forms; and nothing else is left in the folder."""
    lock = Lock(
        manifest="d",
        python="3.12.1",
        pip={"a": "1.10", "b": "@ git+https://e.org/b@abc"},
        apt={"x": "1:2"},
        models={"models/a.bin": LockedModel("ab", 3)},
    )
    write_lock(lock, tmp_path / name)
    assert read_lock(tmp_path / name) == lock
    assert os.listdir(tmp_path) == [name]


def test_a_lock_that_cannot_be_read_is_told(tmp_path):
    """A missing file, another format and a broken text are errors of ours."""
    path = tmp_path / "x.lock.yaml"
    for text in (None, "version: 9\n", "[", "- a", "version: 1\nmodels: {a: {b: c}}\n"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(InstallFailed, match="lock"):
            read_lock(path)


@needs_dpkg
async def test_apt_versions_are_in_the_lock(site):
    """Those of the manifest, as they are installed."""
    manifest, _ = await site.install("apt: [dpkg]\n")
    lock = await take_lock(manifest, site.tools(manifest))
    assert lock.apt == {"dpkg": (await Apt(site.env).versions())["dpkg"]}
