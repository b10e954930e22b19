"""What every place of state promises, on each of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

KEY = "jobs/ab/abcdef"


def at_once(count, work):
    """Do something in as many threads, begun together."""
    gate = threading.Barrier(count)

    def one(index):
        gate.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def read_all(blobs, key, *span):
    with blobs.open_file(key, *span) as file:
        return file.read()


def test_a_record_is_created_once(place):
    """The second one is told, and the first one stays."""
    blobs = place()

    assert blobs.read(KEY) is None
    assert blobs.create(KEY, b"one")
    assert not place().create(KEY, b"two")
    assert place().read(KEY).body == b"one"


def test_a_record_is_replaced_only_as_it_was_read(place):
    """A writer that is late is told, however many writes it missed."""
    blobs = place()
    blobs.create(KEY, b"0")
    first = blobs.read(KEY).version

    assert blobs.replace(KEY, b"1", first)
    for number in range(2, 12):
        assert not place().replace(KEY, b"late", first)
        assert blobs.replace(KEY, b"%d" % number, blobs.read(KEY).version)
    assert not blobs.create(KEY, b"late")
    assert blobs.read(KEY).body == b"11"


def test_what_is_not_there_is_not_replaced(place):
    """Nor is what was removed."""
    blobs = place()
    blobs.create(KEY, b"0")
    version = blobs.read(KEY).version
    blobs.remove(KEY)

    assert blobs.read(KEY) is None
    assert not blobs.replace(KEY, b"1", version)
    assert blobs.read(KEY) is None
    assert blobs.create(KEY, b"2")


def test_of_many_that_create_one_wins(place):
    """And what it wrote is what is there."""
    blobs = place()
    for turn in range(4):
        key = f"keys/aa/{turn}"
        won = at_once(8, lambda index, key=key: blobs.create(key, b"%d" % index))

        assert won.count(True) == 1
        assert blobs.read(key).body == b"%d" % won.index(True)


def test_of_many_that_replace_one_wins(place):
    """Every addition is counted once: none is lost, and none is told to be lost that was not."""
    blobs = place()
    blobs.create(KEY, b"0")
    additions = 6

    def add(_):
        done = 0
        while done < additions:
            found = blobs.read(KEY)
            done += blobs.replace(KEY, b"%d" % (int(found.body) + 1), found.version)

    at_once(4, add)

    assert int(blobs.read(KEY).body) == 4 * additions


def test_marks_are_listed_in_order_and_from_a_place_on(place):
    """Across folders, a page at a time."""
    blobs = place()
    keys = [f"recent/{n // 3:06d}/{n:013d}-x" for n in range(10)]
    for key in reversed(keys):
        blobs.mark(key)
    blobs.mark("other/1")

    assert blobs.names("recent/") == keys
    assert blobs.names("recent/", most=4) == keys[:4]
    assert blobs.names("recent/", keys[3], 4) == keys[4:8]
    assert blobs.names("recent/", keys[9]) == []
    assert blobs.names("recent/", "recent/000001/0000000000004") == keys[4:]
    assert blobs.names("none/") == []


def test_a_mark_is_written_over(place):
    """The last one stays."""
    blobs = place()
    blobs.mark("instances/a", b"1")
    blobs.mark("instances/a", b"22")

    assert place().read("instances/a").body == b"22"
    blobs.remove("instances/a")
    assert place().read("instances/a") is None
    blobs.remove("instances/a")


def test_files_are_kept_and_read_in_parts(place, tmp_path):
    """Whatever becomes of the file itself."""
    blobs = place()
    source = tmp_path / "cat.png"
    source.write_bytes(bytes(range(256)) * 40)
    blobs.keep("outputs/ab/cat", source)
    source.unlink()

    assert read_all(place(), "outputs/ab/cat") == bytes(range(256)) * 40
    assert read_all(blobs, "outputs/ab/cat", 256, 259)[:4] == b"\0\1\2\3"
    assert len(read_all(blobs, "outputs/ab/cat", 10_000)) == 240
    assert blobs.open_file("outputs/ab/dog") is None
    blobs.remove("outputs/ab/cat")
    assert blobs.open_file("outputs/ab/cat") is None


def test_an_empty_file_is_a_file(place, tmp_path):
    """Asked for its first byte it has none, but it is there."""
    (tmp_path / "empty").touch()
    blobs = place()
    blobs.keep("outputs/ab/empty", tmp_path / "empty")

    with blobs.open_file("outputs/ab/empty", 0, 0) as file:
        assert file.read() == b""


@pytest.mark.parametrize("count", [20])
def test_readers_beside_a_writer_see_whole_records(place, count):
    """Each is one that was written, and none is older than one seen before."""
    blobs = place()
    blobs.create(KEY, b"0" * 2000)
    over = threading.Event()
    seen = []

    def write():
        for number in range(1, count + 1):
            assert blobs.replace(KEY, b"%d" % (number % 10) * 2000, blobs.read(KEY).version)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        seen.append(blobs.read(KEY).body)
    writer.join()

    assert all(len(body) == 2000 and len(set(body)) == 1 for body in seen)
