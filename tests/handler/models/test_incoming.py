"""Folders of downloads under way: locked, counted, cleared."""

from __future__ import annotations

import asyncio
import os

from handler.models.incoming import Incoming

URL = "https://host/a/m.safetensors?token=s3cret"


def test_a_target_is_the_same_each_time_and_tells_nothing(tmp_path):
    """A download resumes there; its suffix is what the bytes are checked by."""
    target = Incoming(tmp_path).target(URL)

    assert target == Incoming(tmp_path).target(URL.replace("//", "//u:p@"))
    assert target.name == "model.safetensors"
    assert "s3cret" not in str(target)


async def test_a_folder_is_had_alone_and_goes_when_empty(tmp_path):
    """A second one waits, in whichever process it is."""
    folder = Incoming(tmp_path).target(URL).parent
    told = []

    async def work(name):
        async with Incoming(tmp_path).locked(folder):
            told.append(name)
            await asyncio.sleep(0.01)
            told.append(name)

    await asyncio.gather(work("a"), work("b"))

    assert told in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
    assert not folder.exists()


async def test_what_is_promised_counts(tmp_path):
    """More than what is there yet; folders of others promise nothing."""
    incoming = Incoming(tmp_path)
    folder = incoming.target(URL).parent
    assert not incoming.promise(folder, 1)
    async with incoming.locked(folder):
        assert incoming.promise(folder, 5_000_000)
        assert incoming.promised(folder) == incoming.bytes() == 5_000_000
        (folder / "model.part").write_bytes(b"x" * 4096)
        (folder / "model.note").write_bytes(b"x" * 4096)
        assert incoming.promise(folder, 1000)
        assert incoming.promised(folder) == 5096
        assert incoming.clear() == 0
    assert incoming.bytes() == 4096
    assert folder.exists()


async def test_only_what_nobody_fetches_is_cleared(tmp_path):
    """Not what another process has, nor what is young."""
    theirs, mine = Incoming(tmp_path), Incoming(tmp_path)
    left = theirs.root / "left"
    left.mkdir(parents=True)
    (left / ".model.part").write_bytes(b"x" * 4096)
    mine.clear_stale()
    assert left.exists()
    async with theirs.locked(theirs.root / "busy"):
        assert mine.clear() == 4096
        assert (theirs.root / "busy").exists()
    assert not left.exists()
    left.mkdir()
    (left / ".model.part").write_bytes(b"x")
    os.utime(left / ".model.part", (1, 1))
    mine.clear_stale()
    assert not left.exists()
