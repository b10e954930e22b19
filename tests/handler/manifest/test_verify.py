"""The machine against its lock."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from sources.installation import TEXT, needs_dpkg

from handler.manifest.apt import Apt
from handler.manifest.faults import InstallFailed
from handler.manifest.lock import Lock
from handler.manifest.verify import Difference, compare, named_otherwise, observe, take_lock


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
async def test_a_manifest_that_changed_does_not_make_files_go(site):
    """What the lock names is looked at, whatever the manifest names by now."""
    manifest, _ = await site.install("apt: [dpkg]\n" + TEXT.partition("\n")[2])
    lock = await take_lock(manifest, site.tools(manifest))
    text = TEXT.partition("\n")[2].replace("e.org/a.bin", "e.org/c.bin")
    changed = site.manifest(text + "    - {url: https://e.org/d.bin, folder: clip}\n")
    tools = site.tools(changed)

    assert compare(lock, await observe(changed, tools, lock=lock)) == []
    assert named_otherwise(changed, lock, tools.places) == [
        "the manifest now names model models/vae/c.bin in place of models/vae/a.bin",
        "the manifest now names model models/clip/d.bin as well",
    ]
    fewer = site.manifest(text.partition("models:")[0])
    assert "the manifest no longer names model models/loras/b.bin" in named_otherwise(
        fewer, lock, tools.places
    )
    (site.home / "models" / "vae" / "a.bin").unlink()
    (gone,) = compare(lock, await observe(changed, tools, lock=lock))
    assert "model models/vae/a.bin is missing" in str(gone)


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


@needs_dpkg
async def test_apt_versions_are_in_the_lock(site):
    """Those of the manifest, as they are installed."""
    manifest, _ = await site.install("apt: [dpkg]\n")
    lock = await take_lock(manifest, site.tools(manifest))
    assert lock.apt == {"dpkg": (await Apt(site.env).versions())["dpkg"]}


def test_differences_are_told_in_words():
    """What is missing, what is new, what is another."""
    assert str(Difference("package", "a", "1", "2")) == "package a is 2, not 1"
    assert str(Difference("package", "a", "1", None)) == "package a is missing: 1"
    assert str(Difference("package", "a", None, "2")) == "package a is not in the lock: 2"


def test_equal_locks_have_no_difference():
    """And a version that changed has one."""
    lock = Lock(python="3.12.1", pip={"a": "1"})
    assert compare(lock, lock) == []
    now = replace(lock, python="3.12.2", pip={"a": "1", "b": "1"})
    assert [one.kind for one in compare(lock, now)] == ["package", "python"]
