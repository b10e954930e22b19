"""The outbox's folders."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from handler.outbox.journal import Journal, new_id
from handler.outbox.records import Letter

LETTER = Letter(url="https://e.org/", body=b"{}", message_id="a", kind="x")


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "outbox", None)
    made.open()
    yield made
    made.close()


def other(journal) -> Journal:
    """Open the same folder as another process would."""
    made = Journal(journal._folder, None)
    made.open()
    return made


def write(journal, count=1):
    return [journal.write(LETTER, new_id(), 1.0) for _ in range(count)]


def files(journal) -> list[str]:
    return sorted(p.name for p in journal._folder.rglob("*") if p.is_file())


def test_ids_sort_by_time():
    """Also where the clock stands still, or goes back."""
    first = new_id()
    ahead = f"{int(first[:20]) + 10**12:020d}-00000000"

    assert first < new_id(first)
    assert ahead < new_id(ahead)


def test_letters_of_a_process_that_is_gone_are_taken_over_in_order(journal):
    """By one other process, once."""
    gone = other(journal)
    letters = write(gone, 3)
    gone.close()

    assert journal.adopt() == letters
    assert journal.adopt() == []
    assert [journal.read(one).url for one in letters] == ["https://e.org/"] * 3
    assert len(list(journal._folder.iterdir())) == 2  # ours and the dead


def test_letters_of_a_living_process_are_left_alone(journal):
    """Its lock says so."""
    living = other(journal)
    write(living)

    assert journal.adopt() == []
    living.close()
    assert len(journal.adopt()) == 1


def test_only_one_takes_over(journal):
    """However many try at the same moment."""
    gone = other(journal)
    write(gone, 40)
    gone.close()
    others = [other(journal) for _ in range(4)]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.extend(one.adopt())) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == len({one.id for one in found}) == 40


def test_half_written_letters_are_swept(journal):
    """Their writer died in the middle, and had told nobody that they are kept."""
    gone = other(journal)
    (gone._mine / f".{new_id()}").write_bytes(b"half")
    gone.close()

    assert journal.adopt() == []
    assert files(journal) == []


def test_letter_that_cannot_be_read_is_put_aside(journal):
    """It is no reason not to start; somebody may look at it."""
    gone = other(journal)
    name = new_id()
    (gone._mine / name).write_bytes(b"damaged")
    gone.close()

    assert journal.adopt() == []
    assert files(journal) == [name]
    assert journal.dead() == []
    assert journal.drop(name)


def test_delivered_letter_leaves_nothing(journal):
    """Once more is fine."""
    (letter,) = write(journal)
    for _ in range(2):
        journal.remove(letter.id)
    assert files(journal) == []
    with pytest.raises(FileNotFoundError):
        journal.read(letter)


def test_promise_is_listed_as_such_and_not_dropped(journal):
    """After the letters that are pending, although it is older."""
    promise = journal.write(LETTER, new_id(), 0.0, promise=True)
    (letter,) = write(journal)

    assert promise.promise
    assert journal.pending() == [letter, promise]
    assert not journal.drop(promise.id)
    due = journal.fall_due(promise, 7.0)
    assert due == replace(promise, promise=False, since=7.0)
    assert journal.pending() == [due, letter]
    assert journal.drop(promise.id)


def test_letter_takes_the_place_of_a_promise(journal):
    """Under its name; what it is then is all its own."""
    promise = journal.write(LETTER, new_id(), 0.0, promise=True)
    real = replace(LETTER, body=b"[1]", message_id="b")
    letter = journal.write(real, promise.id, 1.0)

    assert journal.pending() == [letter]
    assert (letter.promise, letter.message_id, letter.bytes) == (False, "b", 3)
    journal.remove(promise.id)
    assert files(journal) == []


def test_dead_letter_is_listed_and_revived(journal):
    """With its age anew; what was said stays until the next try."""
    (letter,) = write(journal)
    dead = replace(letter, tries=4, said="404", dead=True)
    journal.bury(dead)

    assert (journal.dead(), journal.pending()) == ([dead], [])
    assert list(journal.dead_sizes()) == [dead.id]
    revived = journal.revive(dead.id, 99.0)
    assert revived == replace(letter, since=99.0, said="404")
    assert (journal.dead(), journal.pending()) == ([], [revived])
    assert journal.revive(dead.id, 99.0) is None


def test_letter_that_was_dropped_stays_away(journal):
    """Whatever is done with it then."""
    (letter,) = write(journal)
    assert journal.drop(letter.id)
    assert not journal.drop(letter.id)
    journal.note(letter)
    journal.bury(letter)

    assert files(journal) == []


@pytest.mark.parametrize("name", ["", "..", "*", "../x", "dead", "00000000000000000001-zzzzzzzz"])
def test_what_is_no_id_finds_nothing(journal, name):
    """It may come from a request."""
    write(journal)

    assert journal.find(name) is None
    assert not journal.drop(name)
    assert journal.revive(name, 1.0) is None
    assert len(files(journal)) == 1


def test_folders_are_for_the_owner_only(journal):
    """URLs are in the clear where WEBHOOK_SECRET is not set."""
    folders = [journal._folder, *journal._folder.iterdir()]

    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_closed_journal_leaves_letters_and_no_empty_folder(journal):
    """The next process finds them."""
    empty, full = other(journal), other(journal)
    write(full)
    for one in (empty, full):
        one.close()
        one.close()

    assert len(list(journal._folder.glob("at-*"))) == 2
    assert repr(full).endswith("closed>")


def test_listing_while_processes_come_and_go(tmp_path):
    """A folder that is gone between two looks is nobody's fault."""
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            one = Journal(tmp_path, None)
            one.open()
            one.close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert Journal(tmp_path, None).pending() == []
    finally:
        over.set()
        thread.join()
