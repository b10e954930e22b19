"""A file while it comes."""

from __future__ import annotations

import os

from handler.transfer.part import BROUGHT, NOTE_EVERY, Part, part_path, remove_stale_parts

URL = "https://a.test/m.bin?token=canary-4711"


def taken(folder, url=URL):
    part = Part.locked(folder / "m.bin", url)
    assert part is not None
    return part


def test_what_was_written_is_known_after_the_end_of_the_process(tmp_path):
    """As far as it was noted: at least every few megabytes."""
    part = taken(tmp_path)
    part.begin('"v1"', 100 << 20)
    part.write(50 << 20, memoryview(b"x" * (NOTE_EVERY - 1)))
    note = next(tmp_path.glob(".*.note"))
    assert b"52428800" not in note.read_bytes()
    part.write(0, memoryview(b"y"))
    assert b"52428800" in note.read_bytes()
    part.close()

    again = taken(tmp_path)
    assert (again.etag, again.size, again.covered()) == ('"v1"', 100 << 20, NOTE_EVERY)
    assert again.missing(10) == [(1, 10)]
    assert again.prefix() == 1
    again.close()


def test_one_has_it_at_a_time(tmp_path):
    """Another process must not write into the same bytes."""
    part = taken(tmp_path)

    assert Part.locked(tmp_path / "m.bin", URL) is None
    taken(tmp_path, "https://a.test/other").close()
    part.close()
    taken(tmp_path).close()


def test_nothing_is_left_of_a_part_without_bytes(tmp_path):
    """It is worth nothing."""
    part = taken(tmp_path)
    part.begin('"v1"', 100)
    part.close()

    assert list(tmp_path.iterdir()) == []


def test_a_published_file_has_its_name_and_nothing_else_is_left(tmp_path):
    """Over an older one."""
    (tmp_path / "m.bin").write_bytes(b"old")
    part = taken(tmp_path)
    part.begin('"v1"', 3)
    part.write(0, memoryview(b"new"))
    part.publish()
    # From here on the name is free: whoever takes it is not disturbed by the end of this one.
    other = taken(tmp_path)
    other.begin('"v1"', 3)
    other.write(0, memoryview(b"n"))
    part.close()
    assert other.path.exists()
    other.discard()
    other.close()

    assert (tmp_path / "m.bin").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def test_a_whole_file_that_somebody_else_made_is_published(tmp_path):
    """By its own name."""
    part = taken(tmp_path)
    part.whole().write_bytes(b"whole")
    part.publish()
    part.close()

    assert (tmp_path / "m.bin").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def test_notes_of_others_are_not_believed(tmp_path):
    """Bytes that the file does not have, another URL, another make."""
    part = taken(tmp_path)
    part.begin('"v1"', 100)
    part.write(0, memoryview(b"x" * 50))
    part.close()
    os.truncate(part.path, 10)
    cut = taken(tmp_path)
    assert cut.covered() == 0
    cut.close()

    note = next(tmp_path.glob(".*.note"), None)
    assert note is None


def test_names_hold_no_secret_and_fit(tmp_path):
    """File systems take 255 bytes."""
    path = part_path(tmp_path / ("ü" * 127), URL)

    assert "canary" not in str(path)
    assert len(path.name.encode()) <= 255
    assert part_path(tmp_path / "a", URL) != part_path(tmp_path / "a", URL + "x")


def test_what_a_killed_process_was_bringing_goes_with_the_next_try(tmp_path):
    """The next one brings it anew, in a folder of its own; names of any length do."""
    target = tmp_path / ("[m]" * 80)
    part = Part.locked(target, URL)
    folder = tmp_path / f"{part.path.stem}.12345678.{BROUGHT}"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_bytes(b"some of it")
    other = tmp_path / f".m.12345678.{BROUGHT}"
    other.mkdir()

    part.whole()

    assert not folder.exists()
    assert other.exists()
    part.close()


def test_stale_parts_are_removed(tmp_path):
    """Those that nobody holds, and nothing else that is called so."""
    (tmp_path / ".mine.part").write_bytes(b"")
    for url in (URL, URL + "2"):
        part = taken(tmp_path, url)
        part.begin('"v1"', 100)
        part.write(0, memoryview(b"x"))
        part.whole().write_bytes(b"what a killed process had copied")
        (tmp_path / f"{part.path.stem}.abc.{BROUGHT}" / "x").mkdir(parents=True)
        if url == URL:
            part.close()
    assert remove_stale_parts(tmp_path, 3600) == []
    removed = remove_stale_parts(tmp_path, 3600, now=os.stat(part.path).st_mtime + 7200)
    assert removed == [part_path(tmp_path / "m.bin", URL)]
    left = {path.stem for path in tmp_path.iterdir()}
    part.close()

    assert left == {".mine", part.path.stem, f"{part.path.stem}.abc"}
