"""Locks: written, read back, and what is made from them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from sources.installation import needs_dpkg

from handler.manifest.apply import ColdStart
from handler.manifest.faults import InstallFailed
from handler.manifest.installer import Installer
from handler.manifest.lock import Lock, LockedModel, freeze, lock_path, read_lock, write_lock
from handler.manifest.plan import make_plan
from handler.manifest.verify import compare, observe, take_lock


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
