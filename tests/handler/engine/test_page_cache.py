"""Pieces of files in the page cache."""

from __future__ import annotations

import contextlib
import os

import pytest

from handler.engine.page_cache import PIECE_BYTES, CachedFile, bring_in, is_resident

SIZE = 3 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def file():
    with contextlib.closing(CachedFile()) as file:
        yield file


def test_a_piece_is_brought_in(path, file):
    """All of it, and then it is resident."""
    descriptor = file.of(path)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    done = 0
    while done < SIZE:
        done += bring_in(file, done, SIZE - done)

    assert done == SIZE
    assert is_resident(descriptor, 0, SIZE)


def test_the_end_of_a_file_brings_nothing(path, file):
    """It may have become shorter since it was found."""
    descriptor = file.of(path)

    assert bring_in(file, SIZE, 10) == 0
    assert not is_resident(descriptor, SIZE, 10)


def test_a_piece_has_a_bound(tmp_path, file):
    """Whoever calls can stop in between."""
    path = tmp_path / "sparse"
    with path.open("wb") as sparse:
        sparse.truncate(PIECE_BYTES * 3)

    file.of(path)
    assert 0 < bring_in(file, 0, PIECE_BYTES * 3) <= PIECE_BYTES


def test_what_is_no_file_is_an_error(tmp_path, file):
    """The same as for any reader."""
    file.of(tmp_path)
    with pytest.raises(OSError, match="Is a directory"):
        bring_in(file, 0, 10)


def test_another_file_takes_the_place_of_the_first(path, tmp_path, file):
    """One is open at a time."""
    other = tmp_path / "y.bin"
    other.write_bytes(b"y")
    first = file.of(path)
    assert file.of(path) == first
    file.of(other)

    assert file.path == other
    assert os.fstat(file.descriptor).st_size == 1


def test_where_the_file_system_cannot_tell_nothing_is_resident():
    """A pipe has no places to look at."""
    reading, writing = os.pipe()
    try:
        assert not is_resident(reading, 0, 1)
    finally:
        os.close(reading)
        os.close(writing)
