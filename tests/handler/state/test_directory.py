"""State in a folder: what is particular to files."""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from handler.errors import StateUnavailable
from handler.state.directory import DirectoryBlobs

KEY = "jobs/ab/abcdef"


@pytest.fixture
def blobs(tmp_path):
    made = DirectoryBlobs(tmp_path / "state")
    made.open()
    return made


def files(blobs) -> list[str]:
    return sorted(path.relative_to(blobs._folder).as_posix() for path in blobs._folder.rglob("*"))


def test_two_versions_are_kept_of_a_record(blobs):
    """And nothing that was written aside."""
    blobs.create(KEY, b"0")
    for _ in range(9):
        assert blobs.replace(KEY, b"x", blobs.read(KEY).version)

    assert [n for n in files(blobs) if "0000" in n] == [f"{KEY}/000009", f"{KEY}/000010"]
    assert files(blobs)[0] == ".aside"
    assert list((blobs._folder / ".aside").iterdir()) == []


def test_removing_leaves_no_folder(blobs):
    """Of a record or a mark, and the place itself stays."""
    blobs.create(KEY, b"0")
    blobs.mark("recent/000000/1")
    blobs.remove(KEY)
    blobs.remove("recent/000000/1")
    blobs.remove("recent/000000/2")

    assert files(blobs) == [".aside"]


def write_on(folder, count=5):
    """Write as another worker does."""
    other = DirectoryBlobs(folder)
    for _ in range(count):
        assert other.replace(KEY, b"others", other.read(KEY).version)


def test_a_number_that_was_given_up_is_no_win(blobs):
    """A writer that slept over many writes takes a free number, sees the others, and withdraws."""

    class Sleeper(DirectoryBlobs):
        def _write_aside(self, body):
            write_on(blobs._folder)
            return super()._write_aside(body)

    blobs.create(KEY, b"0")

    assert not Sleeper(blobs._folder).replace(KEY, b"late", blobs.read(KEY).version)
    assert blobs.read(KEY).body == b"others"
    assert [n for n in files(blobs) if "0000" in n] == [f"{KEY}/000005", f"{KEY}/000006"]


def test_a_write_that_others_built_on_is_a_win(blobs):
    """However far they are when its writer looks."""

    class Slow(DirectoryBlobs):
        def _take(self, aside, target, *, make_folder):
            taken = super()._take(aside, target, make_folder=make_folder)
            write_on(blobs._folder)
            return taken

    blobs.create(KEY, b"0")

    assert Slow(blobs._folder).replace(KEY, b"slow", blobs.read(KEY).version)
    assert blobs.read(KEY).body == b"others"


def test_a_server_that_answers_twice_does_not_make_a_loser(blobs):
    """NFS asks again when an answer was lost: then the name is there, and it is ours."""

    class Twice(DirectoryBlobs):
        def _link(self, aside, target):
            super()._link(aside, target)
            super()._link(aside, target)

    assert Twice(blobs._folder).create(KEY, b"mine")
    assert not blobs.create(KEY, b"other")


def test_nobody_else_may_read(blobs, tmp_path):
    """Neither the folder nor the files, however an output was written."""
    blobs.create(KEY, b"0")
    picture = tmp_path / "x.png"
    picture.write_bytes(b"x")
    picture.chmod(0o644)
    blobs.keep("outputs/aa/x", picture)
    assert stat.S_IMODE((blobs._folder / "outputs/aa/x").stat().st_mode) == 0o600

    assert stat.S_IMODE(blobs._folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((blobs._folder / KEY / "000001").stat().st_mode) == 0o600


def test_what_a_crash_left_aside_is_swept_when_it_is_old(blobs):
    """Young ones may belong to a writer at work."""
    blobs._write_aside(b"x")
    blobs.sweep(time.time())
    assert len(list((blobs._folder / ".aside").iterdir())) == 1

    blobs.sweep(time.time() + 4000)
    assert list((blobs._folder / ".aside").iterdir()) == []


@pytest.mark.parametrize("torn", [b"", b"to", b"torn\n", b"torn\n#", b"torn\n#ab"])
def test_a_version_that_was_never_finished_is_passed_over(tmp_path, torn):
    """Where there are no links, a writer may die in the middle; the next one goes on after it."""
    blobs = DirectoryBlobs(tmp_path / "state", links=False)
    (tmp_path / "state" / ".aside").mkdir(parents=True)
    blobs.create(KEY, b"whole")
    (blobs._folder / KEY / "000002").write_bytes(torn)

    found = blobs.read(KEY)
    assert found.body == b"whole"
    assert blobs.replace(KEY, b"next", found.version)
    assert blobs.read(KEY).body == b"next"


def test_a_file_is_linked_and_not_copied_where_that_is_possible(blobs, tmp_path):
    """A large video costs nothing; a symbolic link is followed."""
    (tmp_path / "video").write_bytes(b"v")
    (tmp_path / "link").symlink_to(tmp_path / "video")
    blobs.keep("outputs/1", tmp_path / "link")

    assert (tmp_path / "video").stat().st_nlink == 2
    with blobs.open_file("outputs/1") as file:
        assert file.read() == b"v"


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    """With what to look at."""
    (tmp_path / "state").write_text("a file")

    with pytest.raises(StateUnavailable, match="cannot be kept") as told:
        DirectoryBlobs(tmp_path / "state").open()
    assert str(tmp_path) in told.value.hint
    assert told.value.retryable


def test_opening_finds_links(blobs):
    """And leaves nothing of its try."""
    assert blobs._links
    assert files(blobs) == [".aside"]
    assert os.access(blobs._folder, os.W_OK)


def test_a_file_system_without_links_is_found_out(tmp_path):
    """Exclusive creation does, then."""

    class WithoutLinks(DirectoryBlobs):
        def _hard_link(self, path, other):
            raise PermissionError(1, "not here")

    blobs = WithoutLinks(tmp_path / "state")
    blobs.open()

    assert files(blobs) == [".aside"]
    assert blobs.create(KEY, b"one")
    assert not blobs.create(KEY, b"two")


def test_a_record_that_is_removed_meanwhile_is_not_brought_back(blobs):
    """By a writer who had read it."""

    class Sleeper(DirectoryBlobs):
        def _write_aside(self, body):
            blobs.remove(KEY)
            return super()._write_aside(body)

    blobs.create(KEY, b"0")

    assert not Sleeper(blobs._folder).replace(KEY, b"late", blobs.read(KEY).version)
    assert blobs.read(KEY) is None
    assert files(blobs) == [".aside"]


def test_a_folder_that_goes_meanwhile_is_made_again(blobs):
    """Whoever removed the last thing in it removed it, too."""

    class Tidied(DirectoryBlobs):
        times = 3

        def _hard_link(self, path, other):
            self.tidy(other)
            super()._hard_link(path, other)

        def _move_in(self, aside, path):
            path.parent.mkdir(parents=True)
            super()._move_in(aside, path)

        def tidy(self, path):
            if self.times:
                self.times -= 1
                path.parent.rmdir()

    tidied = Tidied(blobs._folder)
    assert tidied.create(KEY, b"0")
    assert tidied.times == 0
    tidied.mark("recent/1")
    assert blobs.names("recent/") == ["recent/1"]


def test_folders_come_and_go_under_several_writers(blobs):
    """A record is written and removed in a folder that others empty all the time."""

    def write(number):
        key = f"ab/{number}"
        for _ in range(100):
            assert blobs.create(key, b"0")
            blobs.mark(f"{key}-mark/1")
            blobs.remove(f"{key}-mark/1")
            blobs.remove(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert files(blobs) == [".aside"]
