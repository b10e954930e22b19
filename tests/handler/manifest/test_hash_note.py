"""Hashes that are remembered beside their files."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from handler.manifest.hash_note import note_path, remember, remembered, sha256_of


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights")
    remember(path, "a" * 64)
    return path


def test_a_file_that_has_not_changed_is_known(file):
    """By the note beside it, which engines pass over."""
    assert remembered(file) == "a" * 64
    assert note_path(file).name == ".m.safetensors.sha256"


def test_a_file_in_an_image_is_known(file):
    """Its layers keep whole seconds, and give it another number on the disk."""
    second = file.stat().st_mtime_ns // 1_000_000_000
    again = file.with_suffix(".new")
    again.write_bytes(file.read_bytes())
    again.replace(file)
    os.utime(file, (second, second))
    assert remembered(file) == "a" * 64


def test_a_changed_file_is_not_known(file):
    """By its size, or by its time."""
    status = file.stat()
    file.write_bytes(b"other, longer")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert remembered(file) is None

    file.write_bytes(b"weighty")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert remembered(file) is None


@pytest.mark.parametrize("text", ["", "x", "a b c", "a 1"])
def test_a_note_that_cannot_be_read_is_none(file, text):
    """Nor is one that is not there."""
    note_path(file).write_text(text)
    assert remembered(file) is None
    note_path(file).unlink()
    assert remembered(file) is None


def test_what_cannot_be_noted_is_no_fault(tmp_path):
    """A volume may be read-only; a long name is cut."""
    remember(tmp_path / "absent", "a" * 64)
    long = tmp_path / ("ä" * 120)
    long.touch()
    remember(long, "a" * 64)
    assert remembered(long) == "a" * 64


async def test_a_file_is_read_whole(tmp_path):
    """In blocks, in a thread."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(9 << 20))
    assert await sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError):
        await sha256_of(tmp_path / "absent")


async def test_a_cancelled_reading_ends(tmp_path):
    """Gigabytes do not hold the exit."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(64 << 30)
    reading = asyncio.create_task(sha256_of(path))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().shutdown_default_executor()
