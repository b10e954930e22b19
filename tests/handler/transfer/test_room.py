"""Disk space, promised before it is taken."""

from __future__ import annotations

import errno
import shutil

import pytest

from handler.errors import InternalFault
from handler.transfer.base import DiskFull
from handler.transfer.part import Part
from handler.transfer.room import Room, is_storing_fault, storing_fault


@pytest.fixture
def part(tmp_path):
    made = []

    def make(name="m.bin"):
        made.append(Part.locked(tmp_path / name, "http://e.org/" + name))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_does_not_fit_is_refused_with_the_figures(part, tmp_path):
    """And what must stay free counts."""
    free = shutil.disk_usage(tmp_path).free
    with (
        pytest.raises(DiskFull, match="does not fit") as caught,
        Room(0).kept(part(), free * 2, "e.org/m"),
    ):
        pass
    assert caught.value.details["needed"] == free * 2
    with pytest.raises(DiskFull), Room(free * 2).kept(part("n.bin"), 1, "e.org/n"):
        pass


def test_promises_add_up_until_they_are_over(part, tmp_path):
    """Two that fit alone may not fit together."""
    room, size = Room(0), int(shutil.disk_usage(tmp_path).free * 0.6)
    first, second = part("a"), part("b")
    refused = pytest.raises(DiskFull, match="promised to other")
    with room.kept(first, size, "a"), refused, room.kept(second, size, "b"):
        pass
    with room.kept(second, size, "b"):
        pass


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, InternalFault)],
)
def test_faults_of_the_disk_are_told_apart(number, kind):
    """Full is one thing, not to be written another."""
    fault = OSError(number, "so")
    assert type(storing_fault(fault, "e.org/m")) is kind
    assert is_storing_fault(fault) is (kind is DiskFull)


def test_what_no_disk_holds_is_refused_first(part):
    """Whatever could be removed for it."""
    Room(0).possible(part("a"), shutil.disk_usage("/").free // 2, "a")
    with pytest.raises(DiskFull, match="does not fit"):
        Room(0).possible(part("b"), 1 << 80, "b")


def test_a_file_of_unknown_size_ends_where_room_is_spared(part, tmp_path):
    """It is looked at again and again while it comes."""
    free = shutil.disk_usage(tmp_path).free
    Room(free // 2).check(part(), "e.org/m")
    with pytest.raises(DiskFull, match="does not fit"):
        Room(free * 2).check(part("n"), "e.org/n")
