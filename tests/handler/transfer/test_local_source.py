"""Files on this machine, below folders that the operator allowed."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
from pathlib import Path

import pytest
from sources.host import safetensors

from handler.errors import InputFailed
from handler.transfer.local_source import LocalSource, placed
from handler.transfer.records import Wanted

BODY = safetensors(200_000)
OTHER_DISK = Path("/dev/shm")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "volume"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "m x.safetensors").write_bytes(BODY)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "in").symlink_to(folder / "sub" / "m x.safetensors")
    return folder


@pytest.fixture
def fetch(make, threads, root):
    downloader = make(source=LocalSource([root, root / "none"], threads))

    async def fetch(url, target, **wanted):
        return await downloader.download(Wanted(url, target, **wanted))

    return fetch


async def test_a_file_of_the_same_disk_is_linked(fetch, root, tmp_path):
    """By path, by URL, and through links that stay inside."""
    file = root / "sub" / "m x.safetensors"
    for url in (str(file), f"file://{root}/sub/m%20x.safetensors", str(root / "in")):
        target = tmp_path / "models" / "m.safetensors"
        got = await fetch(url, target)
        assert target.stat().st_ino == file.stat().st_ino
        assert (got.bytes, [path.name for path in target.parent.iterdir()]) == (
            len(BODY),
            ["m.safetensors"],
        )


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="no /dev/shm to be another disk")
async def test_a_file_of_another_disk_is_copied(fetch, root):
    """And leaves nothing else there."""
    folder = OTHER_DISK / f"comfyfn-test-{os.getpid()}"
    try:
        await fetch(str(root / "in"), folder / "m.safetensors")
        assert (folder / "m.safetensors").read_bytes() == BODY
        assert [path.name for path in folder.iterdir()] == ["m.safetensors"]
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("{root}/out", "outside the folders"),
        ("{root}/../secret", "outside the folders"),
        ("/etc/passwd", "outside the folders"),
        ("file:///etc/passwd", "outside the folders"),
        ("file://elsewhere{root}/in", "not an absolute path"),
        ("file:{root}/%00", "not an absolute path"),
        ("relative", "not an absolute path"),
        ("{root}/sub", "no file"),
        ("{root}/none", "no file"),
    ],
)
async def test_what_may_not_be_taken_is_refused(fetch, root, tmp_path, path, told):
    """Links out of the folder, too."""
    with pytest.raises(InputFailed, match=told):
        await fetch(path.format(root=root), tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


async def test_without_folders_there_are_no_local_files(make, threads, root, tmp_path):
    """It is told what to set."""
    with pytest.raises(InputFailed, match="may not be taken") as caught:
        await make(source=LocalSource([], threads)).download(
            Wanted(str(root / "in"), tmp_path / "m")
        )
    assert "ALLOW_PATHS" in caught.value.hint


async def test_a_wrong_hash_leaves_the_original_alone(fetch, root, tmp_path):
    """The link goes, the file stays."""
    with pytest.raises(InputFailed, match="SHA-256"):
        await fetch(str(root / "in"), tmp_path / "m.safetensors", sha256="0" * 64)

    assert (root / "in").read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "volume"]


@pytest.fixture
def far(tmp_path):
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk here")
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as folder:
        yield Path(folder)


async def test_a_copy_tells_its_progress_and_can_be_stopped(threads, far, tmp_path):
    """A volume of many gigabytes must not hold up the end of the process."""
    body = random.Random(1).randbytes(24 << 20)
    (tmp_path / "m").write_bytes(body)
    told = []
    await placed(tmp_path / "m", far / "m", told.append, threads)
    assert (far / "m").read_bytes() == body
    assert told == sorted(told)
    assert (len(told) > 1, told[-1]) == (True, len(body))

    loop, first = asyncio.get_running_loop(), asyncio.Event()
    go_on = threading.Event()

    def tell(_done):
        loop.call_soon_threadsafe(first.set)
        go_on.wait(10)

    task = asyncio.create_task(placed(tmp_path / "m", far / "n", tell, threads))
    await first.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (far / "n").stat().st_size < len(body)


async def test_a_path_is_admitted_where_it_may_be_taken(make, threads, root):
    """One outside is refused before anything is begun."""
    downloader = make(source=LocalSource([root], threads))
    await downloader.admit(str(root / "in"))
    for path in (root / "out", root / "none", "/etc/passwd"):
        with pytest.raises(InputFailed):
            await downloader.admit(str(path))
