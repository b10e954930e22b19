"""Outputs that are kept after their job."""

from __future__ import annotations

import asyncio
import os

import pytest

from handler.errors import StateUnavailable
from handler.state.kept import Kept, Mark, output_name

UID = "a" * 32


@pytest.fixture
def file(tmp_path):
    """Make a file of noise."""

    def make(name="cat.png", size=1000):
        path = tmp_path / "scratch" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path

    return make


async def read(kept, name, *span):
    async with await kept.open(UID, name, *span) as opened:
        return b"".join([block async for block in opened.blocks()])


async def test_what_one_worker_keeps_the_other_gives_out(worker, file):
    """Whole and in parts, names with spaces and unicode, after the job's folder is gone."""
    name = "ein schöner Kater 猫.png"
    path = file(size=600_000)
    body = path.read_bytes()
    assert await Kept(worker(), 60).put(UID, name, path, 1000.0)
    path.unlink()

    kept = Kept(worker(), 60)
    assert await read(kept, name) == body
    assert await read(kept, name, 10, 19) == body[10:20]
    assert await read(kept, name, 599_000) == body[599_000:]
    assert await read(kept, name, 0, 0) == body[:1]
    assert await kept.has(UID, name)
    assert not await kept.has(UID, "other")
    assert await kept.open(UID, "other") is None


async def test_a_name_is_no_path(local, file, tmp_path):
    """Whatever a caller asks for, nothing else of the disk is given out."""
    kept = Kept(local, 60)
    (tmp_path / "secret").write_text("x")
    await kept.put(UID, "../../../secret", file(), 1000.0)

    for name in ("../../../../secret", "/etc/passwd", "..", "", "\x00", "a" * 5000, "\ud800"):
        assert await kept.open(UID, name) is None
    assert len(await read(kept, "../../../secret")) == 1000


async def test_outputs_expire(worker, file):
    """Each by its own time; nothing is left of them."""
    store = worker()
    kept = Kept(store, 60)
    await kept.put(UID, "old", file(), 1000.0)
    await kept.put(UID, "young", file(), 1050.0)

    assert await kept.expire(1060.0) == 1
    assert [await kept.has(UID, name) for name in ("old", "young")] == [False, True]
    assert await kept.expire(1060.0) == 0
    assert await kept.expire(2000.0) == 1
    assert store.blobs.names("kept/") == []
    assert store.blobs.names("outputs/") == []


async def test_the_oldest_give_way_to_a_new_one(worker, file):
    """Over the budget, another worker's too; one that is larger than all of it is not kept."""
    a, b = Kept(worker(), 60, 2500), Kept(worker(), 60, 2500)
    await a.put(UID, "1", file(), 1000.0)
    await b.put(UID, "2", file(), 1001.0)
    assert await a.put(UID, "3", file(), 1002.0)
    assert await b.put(UID, "4", file(), 1003.0)
    assert [await a.has(UID, name) for name in "1234"] == [False, False, True, True]

    assert not await a.put(UID, "5", file(size=2501), 1004.0)
    assert [await a.has(UID, name) for name in "345"] == [True, True, False]
    assert await a.put(UID, "6", file(size=2500), 1005.0)
    assert [await a.has(UID, name) for name in "346"] == [False, False, True]


async def test_the_expiry_makes_room(local, file):
    """What is gone counts no more."""
    kept = Kept(local, 60, 2500)
    for number in range(2):
        await kept.put(UID, str(number), file(), 1000.0)
    await kept.expire(2000.0)
    for number in range(2, 4):
        await kept.put(UID, str(number), file(), 2000.0)

    assert [await kept.has(UID, str(n)) for n in range(4)] == [False, False, True, True]


async def test_nothing_is_kept_where_none_is_wanted(local, file):
    """OUTPUT_RETENTION_S=0."""
    kept = Kept(local, 0)

    assert not await kept.put(UID, "a", file(), 1000.0)
    assert local.blobs.names("kept/") == []


async def test_a_file_that_is_gone_is_told(local, tmp_path):
    """Before anything is written of it."""
    with pytest.raises(FileNotFoundError):
        await Kept(local, 60).put(UID, "a", tmp_path / "none", 1000.0)
    assert local.blobs.names("kept/") == []


async def test_a_disk_that_cannot_be_written_is_told(local, file, tmp_path):
    """As what may pass."""
    path = file()
    (tmp_path / "state" / "kept").touch()

    with pytest.raises(StateUnavailable):
        await Kept(local, 60).put(UID, "a", path, 1000.0)


async def test_a_file_that_shrank_is_no_answer(local, file):
    """The caller was promised more."""
    kept = Kept(local, 60)
    path = file()
    await kept.put(UID, "a", path, 1000.0)
    os.truncate(path, 10)  # linked

    with pytest.raises(OSError, match="shorter"):
        await read(kept, "a", 0, 999)


async def test_an_opened_output_is_given_to_the_end(local, file):
    """It expires meanwhile."""
    kept = Kept(local, 60)
    path = file(size=600_000)
    body = path.read_bytes()
    await kept.put(UID, "a", path, 1000.0)
    opened = await kept.open(UID, "a")
    await kept.expire(2000.0)

    assert b"".join([block async for block in opened.blocks()]) == body
    await opened.close()


def test_other_names_are_no_marks():
    """Somebody may have put a file there."""
    assert Mark.of("kept/000000/README") is None
    assert Mark.of(f"kept/000000/{0:013d}-{5:015d}-{UID}-{'0' * 32}").bytes == 5


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("cat.png", "cat.png"),
        ("ein Kater 猫.png", "ein Kater 猫.png"),
        ("../../etc/passwd", "passwd"),
        ("a\\b\\c.png", "c.png"),
        (".hidden", "hidden"),
        ("..", "output"),
        ("", "output"),
        ("a\r\nb\x00.png", "a__b_.png"),
        ("a\ud800.png", "a_.png"),
        ("猫" * 200 + ".png", "猫" * 65 + ".png"),
    ],
)
def test_an_outputs_name_is_a_leaf(filename, name):
    """As it was told where that can be."""
    assert output_name(filename, ()) == name


def test_names_do_not_meet():
    """Two nodes may call their files alike."""
    taken: list[str] = []
    for filename in ("a.png", "a.png", "A.PNG", "a", "a-2.png", "sub/a.png"):
        taken.append(output_name(filename, taken))

    assert taken == ["a.png", "a-2.png", "A-3.PNG", "a", "a-2-2.png", "a-4.png"]


async def test_the_archive_opens_outputs_as_files(local, file):
    """In a thread of its own."""
    kept = Kept(local, 60)
    path = file()
    await kept.put(UID, "a", path, 1000.0)

    with kept.open_now(UID, "a") as opened:
        assert opened.read() == path.read_bytes()
    assert kept.open_now(UID, "b") is None


async def test_a_reader_that_goes_away_leaves_no_file_open(local, file):
    """Between its question and the answer: warnings are errors here."""
    kept = Kept(local, 60)
    await kept.put(UID, "a", file(), 1000.0)
    for name in ("a", "none"):
        opening = asyncio.create_task(kept.open(UID, name))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    await local.call(lambda: None)

    assert await kept.has(UID, "a")
