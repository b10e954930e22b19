"""Parts of one file: how they are tried again. The downloader's tests have the transfers."""

from __future__ import annotations

import pytest

from handler.errors import InputFailed
from handler.transfer.base import Remote
from handler.transfer.part import Part
from handler.transfer.ranges import Dropped, Ranges, backoff, too_large
from handler.transfer.records import Limits
from handler.transfer.slots import Slots

LIMITS = Limits(backoff_s=1.0, longest_backoff_s=10.0)


@pytest.mark.parametrize(
    ("fails", "after", "least", "most"),
    [
        (1, None, 1, 1.25),
        (2, None, 2, 2.5),
        (9, None, 10, 12.5),
        (1, 5, 5, 6.25),
        (1, 99, 10, 12.5),
    ],
)
def test_waits_double_up_to_a_limit(fails, after, least, most):
    """A source's own wish counts, up to the same limit; jitter spreads them."""
    assert all(least <= backoff(LIMITS, fails, after) <= most for _ in range(50))


def test_too_large_tells_the_limit():
    """As a figure for programs."""
    assert too_large("e.org/m", 7).details == {"max_bytes": 7}


class Body:
    def __init__(self, data):
        self._data = data

    def readinto(self, buffer):
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count

    def close(self):
        pass


class Shelf:
    """A source that gives at most so many bytes an answer."""

    def __init__(self, data, most):
        self.data, self.most, self.asked = data, most, []

    async def open(self, remote, start, end):
        self.asked.append((start, end))
        stop = len(self.data) if end is None else end
        return Body(self.data[start : min(stop, start + self.most)])


async def bring(source, threads, target, ranges=True):
    remote = Remote("u", len(source.data), "v", ranges=ranges)
    limits = Limits(backoff_s=0.001, per_file=1, tries=3, min_piece=1 << 20)
    part = Part.locked(target, "u")
    part.begin("v", remote.size)
    try:
        await Ranges(
            source, remote, part, limits=limits, slots=Slots(4, 4), threads=threads,
            max_bytes=None, shown="e.org/m", check_room=lambda: None,
        ).run()  # fmt: skip
        part.publish()
    finally:
        part.close()


async def test_a_part_goes_on_where_it_broke_off(threads, tmp_path):
    """As often as there is progress."""
    source = Shelf(bytes(range(256)) * 2048, most=100_000)
    await bring(source, threads, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == source.data
    assert [start for start, _ in source.asked] == [n * 100_000 for n in range(6)]


async def test_crumbs_are_no_progress(threads, tmp_path):
    """A source that drops after every few bytes is not asked for ever."""
    source = Shelf(bytes(1 << 20), most=10)
    with pytest.raises(InputFailed, match="broke off"):
        await bring(source, threads, tmp_path / "m")
    assert len(source.asked) == 3


async def test_a_source_without_parts_is_not_asked_for_the_rest(threads, tmp_path):
    """The file has to be begun anew, by whoever is above."""
    with pytest.raises(Dropped):
        await bring(Shelf(bytes(1 << 20), most=10), threads, tmp_path / "m", ranges=False)
