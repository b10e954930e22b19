"""What goes when the budget is reached, and how it goes."""

from __future__ import annotations

import os
import shutil

import pytest

from handler.models.eviction import Evictor, discard
from handler.models.incoming import Incoming
from handler.models.index import Index
from handler.models.item import Item, Origin
from handler.models.pins import Pins


@pytest.fixture
def index(tmp_path):
    made = Index(tmp_path)
    made.load()
    return made


def put(index, name, used, size=1000):
    path = index.folder / f"{name}.pt"
    item = Item(key=name, path=path, bytes=size, leaf=path.name, protected=False)
    index.save(item)
    path.write_bytes(b"x" * size)
    item.present()
    item.last_use = used
    os.utime(index.note_path(item), (used, used))
    index.add(item)
    return item


def names(index):
    return sorted(item.key for item in index)


async def test_what_was_used_longest_ago_goes_first(index, tmp_path):
    """Down to the budget, and what is pinned stays."""
    items = [put(index, f"i{number}", number + 1) for number in range(4)]
    pins = Pins()
    pins.pin(items[0], "job")
    await Evictor(index, pins, Incoming(tmp_path), 2500).fit()

    assert names(index) == ["i0", "i3"]
    assert sorted(path.name for path in index.folder.iterdir()) == [
        *("i0.json", "i0.pt", "i3.json", "i3.pt")
    ]


@pytest.mark.parametrize("short", [False, True])
async def test_what_others_began_does_not_keep_the_disk_full(index, tmp_path, short):
    """Without a budget as well; where there is room enough it waits to be taken up."""
    incoming = Incoming(tmp_path)
    for name in ("left", "mine"):
        (incoming.root / name).mkdir(parents=True)
        (incoming.root / name / ".m.part").write_bytes(b"x" * 9000)
    free = shutil.disk_usage(tmp_path).free

    async with incoming.locked(incoming.root / "mine"):
        evictor = Evictor(index, Pins(), incoming, 0)
        await evictor.make_room(incoming.root / "mine", free if short else 0)

    assert (incoming.root / "left").exists() is not short
    assert (incoming.root / "mine").exists()


async def test_the_last_use_by_another_worker_counts(index, tmp_path):
    """It is the time of change of the note."""
    old = put(index, "old", 1)
    put(index, "new", 2)
    os.utime(index.note_path(old), (3, 3))
    await Evictor(index, Pins(), Incoming(tmp_path), 1000).fit()

    assert names(index) == ["old"]


async def test_no_budget_is_no_limit(index, tmp_path):
    """Nothing goes."""
    put(index, "a", 1)
    evictor = Evictor(index, Pins(), Incoming(tmp_path), 0)
    await evictor.fit()
    evictor.fit_now()
    assert names(index) == ["a"]


async def test_room_for_other_folders_is_none_of_its_business(index, tmp_path):
    """The same downloaders fetch media."""
    put(index, "a", 1)
    await Evictor(index, Pins(), Incoming(tmp_path), 1000).make_room(tmp_path / "jobs", 5000)
    assert names(index) == ["a"]


async def test_one_file_under_two_keys_counts_once(index, tmp_path):
    """As a local file that was named in two ways."""
    first = put(index, "a", 1)
    second = put(index, "b", 2)
    second.path.unlink()
    os.link(first.path, second.path)
    second.present()
    index.add(second)
    await Evictor(index, Pins(), Incoming(tmp_path), 1000).fit()
    assert names(index) == ["a", "b"]


def test_what_is_in_use_is_not_removed(index, tmp_path):
    """Nor is anything left when it may go."""
    item = put(index, "a", 1)
    pins = Pins()
    evictor = Evictor(index, pins, Incoming(tmp_path), 0)
    pins.pin(item, "job")
    assert evictor.remove(item) is None
    pins.release("job")
    gone = evictor.remove(item)
    assert gone is not None
    assert list(index.folder.iterdir()) == [gone]


def test_a_damaged_item_goes_whoever_needs_it(index):
    """With its note."""
    item = put(index, "a", 1)
    discard(item, index)
    assert list(index.folder.iterdir()) == []
    assert names(index) == []


async def test_what_went_is_told(index, tmp_path):
    """By a URL that it was had from, where it was, and its size; not what stayed."""
    items = [put(index, f"i{number}", number + 1) for number in range(3)]
    origin = Origin.of("https://e.org/a.pt?sig=canary", public=True)
    items[0].origins[origin.id] = origin
    told, pins = [], Pins()
    pins.pin(items[2], "job")
    evictor = Evictor(index, pins, Incoming(tmp_path), 1, lambda *news: told.append(news))
    await evictor.fit()

    assert told == [
        ("https://e.org/a.pt?sig=...", items[0].path, 1000),
        ("", items[1].path, 1000),
    ]
