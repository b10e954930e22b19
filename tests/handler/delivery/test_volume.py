"""Files copied onto a mounted disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from handler.delivery.base import PutFailed
from handler.delivery.volume import VolumeUploader, _fault
from handler.errors import InvalidPayload
from handler.targets import Targets


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def uploader(threads, volume):
    def make(path=volume, roots=(volume,), reserved=(), **fields):
        target = Targets.model_validate({"volume": {"path": str(path), **fields}}).volume
        return VolumeUploader(target, roots, threads, reserved=reserved)

    return make


async def test_a_file_appears_whole_in_folders_made_for_it(uploader, volume, item, progress):
    """Awkward names too; nothing else is left."""
    file = item("a b猫.png", 3_000_000, key="x/y z/a b猫.png")

    stored = await uploader(volume / "out").put(file, progress)

    made = volume / "out/x/y z/a b猫.png"
    assert made.read_bytes() == file.path.read_bytes()
    assert stored.url == stored.location == str(made)
    assert [path for path in volume.rglob("*") if path.is_file()] == [made]
    assert progress.told[-1] == 3_000_000


async def test_a_file_of_the_same_name_is_replaced_in_one_step(uploader, volume, item, progress):
    """Who reads the old one keeps it."""
    (volume / "cat.png").write_bytes(b"old")
    with (volume / "cat.png").open("rb") as reading:
        await uploader().put(item("cat.png", 10), progress)
        assert reading.read() == b"old"
    assert (volume / "cat.png").stat().st_size == 10


@pytest.mark.parametrize(
    ("path", "key"), [("state", "a"), ("", "state/outbox/a"), ("state/x", "a")]
)
async def test_the_state_is_not_written_over(uploader, volume, item, progress, path, key):
    """Where it lies on the same disk: it has records and webhooks of others."""
    reserved = (volume / "state", volume.parent / "elsewhere")

    with pytest.raises(PutFailed, match="keeps its state"):
        await uploader(volume / path, reserved=reserved).put(item(key=key), progress)

    assert list(volume.iterdir()) == []
    await uploader(volume, reserved=reserved).put(item(key="states/a"), progress)
    assert (volume / "states/a").exists()


@pytest.mark.parametrize("key", ["../out.png", "a/../../out.png", "", "a/.."])
async def test_no_key_leads_out(uploader, volume, item, progress, key):
    """Whatever template made it."""
    with pytest.raises(PutFailed, match="no path inside"):
        await uploader().put(item("cat.png", key=key), progress)
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("link", ["out", "out/deep"])
async def test_no_link_below_the_allowed_folder_is_followed(
    uploader, volume, tmp_path, item, progress, link
):
    """Whoever can write there could lead a copy elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (volume / link).parent.mkdir(exist_ok=True)
    (volume / link).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PutFailed, match="link") as caught:
        await uploader(volume / "out").put(item("cat.png", key="deep/cat.png"), progress)
    assert not caught.value.passing
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_link_in_the_files_place_is_replaced_and_not_followed(
    uploader, volume, tmp_path, item, progress
):
    """What it led to stays as it was; a folder there is no file's place."""
    (tmp_path / "precious").write_bytes(b"precious")
    (volume / "cat.png").symlink_to(tmp_path / "precious")
    (volume / "dog.png").mkdir()

    await uploader().put(item("cat.png"), progress)
    with pytest.raises(PutFailed, match="folder"):
        await uploader().put(item("dog.png"), progress)

    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (volume / "cat.png").is_symlink()
    assert sorted(path.name for path in volume.iterdir()) == ["cat.png", "dog.png"]


async def test_the_allowed_folder_itself_may_be_a_link(uploader, volume, tmp_path, item, progress):
    """It is the operator's."""
    (tmp_path / "mount").symlink_to(volume)

    await uploader(tmp_path / "mount/a", roots=(tmp_path / "mount",)).put(item(), progress)

    assert (volume / "a/cat.png").exists()


async def test_what_is_not_allowed_is_a_400_that_says_what_to_set(uploader, volume, tmp_path):
    """No folder at all, another one, one that is not mounted."""
    with pytest.raises(InvalidPayload) as caught:
        await uploader(roots=()).check()
    assert "ALLOW_VOLUMES" in (caught.value.hint or "")
    for path in (tmp_path, f"{volume}x", "relative"):
        with pytest.raises(InvalidPayload, match="none of the folders"):
            await uploader(path).check()
    with pytest.raises(InvalidPayload, match="is not there"):
        await uploader(tmp_path / "gone/a", roots=(tmp_path / "gone",)).check()
    await uploader(volume / "not/yet").check()


async def test_a_file_that_is_shorter_than_told_is_not_published(uploader, volume, item, progress):
    """Nor is one that is gone."""
    file = item("cat.png", 100)
    file.path.write_bytes(b"x")
    with pytest.raises(PutFailed, match="1 bytes in place of 100"):
        await uploader().put(file, progress)
    file.path.unlink()
    with pytest.raises(PutFailed, match="No such file"):
        await uploader().put(file, progress)
    assert list(volume.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(volume, tmp_path):
    """Shown by a process that may write files of one MiB only."""
    (tmp_path / "big.bin").write_bytes(b"x" * (3 << 20))
    program = textwrap.dedent(f"""
        import asyncio, resource
        from pathlib import Path
        from handler.delivery.base import PutFailed, Upload
        from handler.delivery.volume import VolumeUploader
        from handler.targets import Targets
        from handler.transfer.threads import Threads

        async def main():
            path = {str(volume)!r}
            target = Targets.model_validate({{"volume": {{"path": path}}}}).volume
            threads = Threads(2)
            uploader = VolumeUploader(target, [Path(path)], threads)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            path = Path({str(tmp_path / "big.bin")!r})
            item = Upload(path, "big.bin", "", 3 << 20, "", "big.bin")
            try:
                await uploader.put(item, lambda sent: None)
            except PutFailed as fault:
                print(fault.code, fault.passing, fault.why)
            threads.close()

        asyncio.run(main())
    """)
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("disk_full False the volume is full")
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "passing", "code"),
    [
        (errno.ENOSPC, False, "disk_full"),
        (errno.EDQUOT, False, "disk_full"),
        (errno.EROFS, False, None),
        (errno.ESTALE, True, None),
        (errno.ELOOP, False, None),
    ],
)
def test_faults_of_the_disk_say_whether_another_try_may_do(number, passing, code):
    """A network disk may come back."""
    fault = _fault(OSError(number, os.strerror(number)))

    assert (fault.passing, fault.code) == (passing, code)
