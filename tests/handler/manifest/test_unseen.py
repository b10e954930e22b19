"""Packages that the interpreter has from elsewhere: kept, and not installed a second time."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from sources.wheels import make_wheel

from handler.manifest.faults import InstallFailed
from handler.manifest.packages import Packages, find_uv
from handler.manifest.requirements import Installed, Line, Wanted
from handler.manifest.unseen import lay_out, never, planned, unseen


def wants(owner, *texts):
    return Wanted(owner, tuple(Line(text, f"r:{at}") for at, text in enumerate(texts, 1)))


@pytest.fixture
def shop(wheels, tmp_path):
    """A folder of wheels with a few more: kin of torch, and one with an extra."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for wheel in wheels.iterdir():
        (folder / wheel.name).symlink_to(wheel)
    make_wheel(folder, "torchvision", "0.23.0", requires=["torch==2.8.0"])
    make_wheel(folder, "vision-tools", "1.0", requires=["torchvision", "torch", "leaf"])
    make_wheel(folder, "cloth", "1.0", requires=["branch ; extra == 'more'"])
    return folder


def site_of(venv):
    return next((venv / "lib").glob("python3*/site-packages"))


@pytest.fixture
def base(image, plain_env, shop, tmp_path):
    """An environment with everything an image has, beside which others are made."""
    venv = tmp_path / "base"
    shutil.copytree(image, venv, symlinks=True)
    install = [str(find_uv()), "pip", "install", "--quiet", "--python", str(venv / "bin/python")]
    install += ["--no-index", "--find-links", str(shop), "torchvision", "leaf==1.0", "cloth"]
    subprocess.run(install, check=True, env=plain_env, timeout=60)
    return venv


@pytest.fixture
def inner(base, plain_env, shop, tmp_path):
    """Give the packages of an empty venv that sees the other by a `.pth`."""
    venv, scratch = tmp_path / "inner", tmp_path / "scratch"
    scratch.mkdir()
    made = [str(find_uv()), "venv", "--quiet", "--python", sys.executable, str(venv)]
    subprocess.run(made, check=True, env=plain_env, timeout=60)
    (site_of(venv) / "image.pth").write_text(f"{site_of(base)}\n")
    options = ("--no-index", "--find-links", str(shop))
    return Packages(venv / "bin" / "python", plain_env, scratch, options=options)


def own(packages):
    """Name what lies in the venv itself."""
    folder = site_of(packages.python.parents[1])
    return {path.name.split("-")[0] for path in folder.glob("*.dist-info")}


async def test_what_comes_from_elsewhere_is_kept(inner):
    """Directly, and where another package asks for it; the rest is installed."""
    before = dict((await inner.installed()).versions)
    outcome = await inner.install([wants("ComfyUI", "torch", "torchvision", "vision-tools")])

    assert outcome.ran
    assert own(inner) == {"vision_tools"}
    assert dict((await inner.installed()).versions) == {**before, "vision-tools": "1.0"}
    assert not (await inner.install([wants("x", "vision-tools", "torch")])).ran


async def test_a_version_that_is_too_old_is_installed_over_it(inner):
    """Where it does not have to stay."""
    await inner.install([wants("pack", "leaf>=2", "branch", "torch")])
    assert own(inner) == {"leaf", "branch"}
    assert (await inner.installed()).versions["leaf"] == "2.0"


async def test_an_extra_of_a_kept_package_comes(inner):
    """Although the package itself is left out."""
    await inner.install([wants("pack", "cloth[more]")])
    assert own(inner) == {"branch"}


async def test_a_package_that_would_replace_it_is_refused(inner):
    """By what it needs itself: the resolver sees the torch that is elsewhere."""
    with pytest.raises(InstallFailed, match="node pack bad: ") as caught:
        await inner.install([wants("good", "branch"), wants("bad", "wants-new-torch")])
    assert "torch" in caught.value.details[0]["packages"]
    assert own(inner) == set()


async def test_scripts_are_told_to_leave_it_alone(inner, tmp_path, plain_env):
    """A script that runs uv by itself installs no second torch."""
    installed = await inner.installed()
    inner.write_constraints(installed)
    env = {**plain_env, **(await inner.script_environment(installed))}
    shop = tmp_path / "shop"
    words = [str(find_uv()), "pip", "install", "--quiet", "--python", str(inner.python)]
    words += ["--no-index", "--find-links", str(shop), "vision-tools"]
    subprocess.run(words, check=True, env=env, timeout=60)
    assert own(inner) & {"torch", "torchvision", "numpy"} == set()


async def test_a_venv_that_sees_the_systems_packages_keeps_them(tmp_path, plain_env, shop):
    """The usual kind: `--system-site-packages`. pip is there, from the system or with it."""
    system = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.base_prefix)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()
    venv, scratch = tmp_path / "sees", tmp_path / "scratch"
    scratch.mkdir()
    made = [str(find_uv()), "venv", "--quiet", "--system-site-packages", str(venv)]
    made += ["--python", f"{system}/bin/python3"]
    subprocess.run(made, check=True, env=plain_env, timeout=60)
    options = ("--no-index", "--find-links", str(shop))
    packages = Packages(venv / "bin" / "python", plain_env, scratch, options=options)
    before = dict((await packages.installed()).versions)
    if not before:
        pytest.skip("this system's Python has no package")
    name = "pip" if "pip" in before else next(iter(before))
    make_wheel(shop, "wants-system", "1.0", requires=[name])

    await packages.install([wants("x", "wants-system")])

    assert own(packages) == {"wants_system"}
    assert dict((await packages.installed()).versions) == {**before, "wants-system": "1.0"}


def test_the_picture_has_metadata_of_every_kind(tmp_path):
    """Wheels, eggs, a broken one, an address; a version that is none is left out."""
    wheel, egg = tmp_path / "a-1.dist-info", tmp_path / "b.egg-info"
    wheel.mkdir()
    (wheel / "METADATA").write_text("Name: a\n")
    egg.write_text("Name: b\n")
    installed = Installed(
        {"a": "1", "b": "2", "c-d": "3", "e": "of old"},
        direct_urls={"a": {"url": "https://e.org/a.whl"}},
        places={"a": str(wheel), "b": str(egg), "c-d": str(tmp_path / "gone")},
    )
    folder = tmp_path / "picture"
    lay_out(installed, folder)
    lay_out(installed, folder)
    texts = {info.name: (info / "METADATA").read_text() for info in folder.iterdir()}
    assert texts == {
        "a-1.dist-info": "Name: a\n",
        "b-2.dist-info": "Name: b\n",
        "c_d-3.dist-info": "Metadata-Version: 2.1\nName: c-d\nVersion: 3\n",
    }
    assert "e.org" in (folder / "a-1.dist-info" / "direct_url.json").read_text()


def test_what_uv_says_is_read():
    """Its list, and what a dry run would do."""
    assert unseen(Installed({"a-b": "1", "c": "1"}), '[{"name": "A_b"}]') == {"c"}
    with pytest.raises(InstallFailed, match="no list"):
        unseen(Installed({}), "error")
    said = "Would install 2 packages\n - leaf==1.0\n + Leaf==2.0\n + x @ file:///x.whl\n"
    assert planned(f"{said} + y==1 (from git+https://e.org/y)\n") == {
        "leaf": "2.0",
        "x": None,
        "y": None,
    }
    assert never({"b", "a"}) == "a ; python_version < '0'\nb ; python_version < '0'\n"
