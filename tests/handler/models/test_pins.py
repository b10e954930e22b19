"""Who needs what, in this process and in others."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest

from handler.models.item import Item
from handler.models.pins import MOST_LOCKS, Pins


@pytest.fixture
def item(tmp_path):
    path = tmp_path / "o.pt"
    path.write_bytes(b"bytes")
    return Item(key="url-a", path=path, bytes=5, leaf="o.pt", protected=False)


def free(pins, item):
    with pins.free(item) as is_free:
        return is_free


def test_an_item_is_kept_until_its_last_pin_goes(item):
    """Counted for each owner; releasing takes all of one."""
    pins = Pins()
    for owner in ("a", "a", "b"):
        assert pins.pin(item, owner)
    pins.unpin(item, "a")
    pins.unpin(item, "nobody")
    pins.release("b")
    assert item in pins
    assert not free(pins, item)
    pins.release("a")
    assert item not in pins
    assert free(pins, item)


def test_only_so_many_files_are_held_open(item, tmp_path):
    """The others are kept in this process all the same."""
    pins = Pins()
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    items = []
    for number in range(MOST_LOCKS + 10):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(b"bytes")
        items.append(replace(item, key=f"url-{number}", path=path))
        assert pins.pin(items[-1], "a")

    assert len(list(Path("/proc/self/fd").iterdir())) - open_before <= MOST_LOCKS
    assert not free(pins, items[-1])
    pins.release("a")
    assert free(pins, items[-1])
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_another_process_sees_the_pin(item):
    """By a lock on the file: here another holder of pins stands for it."""
    mine, theirs = Pins(), Pins()
    mine.pin(item, "a")
    theirs.pin(item, "b")
    assert not free(theirs, item)
    theirs.clear()
    assert not free(theirs, item)
    mine.clear()
    assert free(theirs, item)


def test_what_is_being_removed_cannot_be_pinned(item):
    """Nor what is gone, or is not whole."""
    pins = Pins()
    with item.path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not pins.pin(item, "a")
    item.path.write_bytes(b"byte")
    assert not pins.pin(item, "a")
    item.path.unlink()
    assert not pins.pin(item, "a")
    assert free(pins, item)
    assert item not in pins


def test_pins_spread_to_another_item(item, tmp_path):
    """All owners of the one then need the other."""
    path = tmp_path / "p.pt"
    path.write_bytes(b"bytes")
    other = Item(key="url-b", path=path, bytes=5, leaf="p.pt", protected=False)
    pins = Pins()
    pins.pin(item, "a")
    pins.spread(item, other)
    pins.unpin(item, "a")
    assert other in pins
    pins.release("a")
    assert other not in pins
