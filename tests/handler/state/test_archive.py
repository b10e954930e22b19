"""Several outputs as one ZIP file."""

from __future__ import annotations

import io
import random
import zipfile

import pytest

from handler.state.archive import BLOCK_BYTES, Entry, zip_blocks, zip_length

BODIES = {
    "cat.png": random.Random(1).randbytes(3 * BLOCK_BYTES + 17),
    "ein Kater 猫.png": b"meow",
    "empty.txt": b"",
}


def entries(bodies=BODIES):
    return [
        Entry(name, len(body), 1.7e9, lambda body=body: io.BytesIO(body))
        for name, body in bodies.items()
    ]


def test_what_comes_out_is_what_went_in():
    """Read by another reader than its writer: names, bytes, dates, checksums."""
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zip_blocks(entries()))))

    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == BODIES
    assert archive.getinfo("cat.png").date_time[:3] == (2023, 11, 14)


@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_the_length_is_known_before(count):
    """To the byte, however many there are."""
    bodies = {f"{'猫' * (n % 7)}{n}.png": bytes(n * 1000) for n in range(count)}

    assert zip_length(entries(bodies)) == sum(map(len, zip_blocks(entries(bodies))))


def test_nothing_is_compressed_and_little_is_held():
    """A block leaves before the next one is read."""
    blocks = list(zip_blocks(entries()))

    assert max(map(len, blocks)) <= BLOCK_BYTES + 1000
    archive = zipfile.ZipFile(io.BytesIO(b"".join(blocks)))
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_length_of_a_very_large_archive_is_not_promised():
    """Parts of it take another form, by where they lie."""
    large = Entry("a", 3 << 30, 0.0, io.BytesIO)

    assert zip_length([large]) is None


@pytest.mark.parametrize("body", [b"12", b""])
def test_a_file_that_shrank_breaks_the_archive_off(body):
    """What was sent must not pass for a whole one."""
    short = Entry("a", 5, 0.0, lambda: io.BytesIO(body))

    with pytest.raises(OSError, match="shorter"):
        list(zip_blocks([*entries(), short]))


def test_a_reader_that_goes_away_leaves_no_file_open():
    """In the middle of one."""
    opened = []

    def opening():
        opened.append(io.BytesIO(bytes(5 * BLOCK_BYTES)))
        return opened[-1]

    blocks = zip_blocks([Entry("a", 5 * BLOCK_BYTES, 0.0, opening)])
    next(blocks)
    blocks.close()

    assert [file.closed for file in opened] == [True]
