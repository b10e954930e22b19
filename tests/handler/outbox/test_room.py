"""How much the outbox holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handler.outbox.journal import Journal, new_id
from handler.outbox.records import Letter, OutboxFull, Terms
from handler.outbox.room import Room


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path, None)
    made.open()
    yield made
    made.close()


def buried(journal, count):
    letter = Letter(url="https://e.org/", body=b"x" * 1000, message_id="a", kind="x")
    letters = [journal.write(letter, new_id(), 1.0) for _ in range(count)]
    for one in letters:
        journal.bury(replace(one, dead=True))
    return letters


@pytest.mark.parametrize("terms", [Terms(max_letters=3), Terms(max_bytes=4500)])
async def test_oldest_dead_letters_give_way(journal, terms):
    """By number and by bytes."""
    letters = buried(journal, 3)
    room = Room(journal, terms)
    await room.look()
    await room.make(1000)

    assert [one.id for one in journal.dead()] == [one.id for one in letters[1:]]
    assert repr(room) == "<Room 1 pending, 2 dead>"


async def test_pending_letters_do_not_give_way(journal):
    """The new one is refused, and counts no more."""
    room = Room(journal, Terms(max_letters=2, max_bytes=5000))
    await room.make(10)
    await room.make(10)
    with pytest.raises(OutboxFull, match="2 webhooks are pending"):
        await room.make(10)
    room.leave(10)
    with pytest.raises(OutboxFull):
        await room.make(5000)
    await room.make(10)
    assert (room.letters, room.bytes) == (2, 20)


async def test_what_others_dropped_makes_room(journal):
    """The folder is looked at before anything is refused."""
    (letter,) = buried(journal, 1)
    room = Room(journal, Terms(max_letters=2))
    await room.look()
    room.buried(replace(letter, id="gone"))
    journal.drop(letter.id)
    await room.make(1)

    assert room.dead == {}


async def test_promises_place_is_never_refused(journal):
    """Only more bytes than there is room for are; nothing has changed then."""
    room = Room(journal, Terms(max_letters=2, max_bytes=100))
    await room.make(10)
    await room.make(80)
    with pytest.raises(OutboxFull):
        await room.make(30, 10)
    assert (room.letters, room.bytes) == (2, 90)
    await room.make(20, 10)
    room.add(50)  # what was taken over is not asked
    await room.make(20, 20)
    assert (room.letters, room.bytes) == (3, 150)
    room.give_back(20, 30)
    assert (room.letters, room.bytes) == (3, 160)


async def test_what_failed_gives_way_and_the_log_says_whose(journal, caplog):
    """Only as much as is needed; then the new one is refused, and may come again."""
    written = journal.write(
        Letter(url="https://e.org/", body=b"x" * 10, message_id="a", kind="x"), new_id(), 1.0
    )
    room = Room(journal, Terms(max_letters=2))
    await room.make(10)
    await room.make(10)
    tired = [replace(written, tries=4, said="503 Service Unavailable")]

    def give_way():
        if not tired:
            return None
        room.leave(10)
        return tired.pop()

    room.give_way = give_way
    room.most_of = lambda: ("https://e.org:443", 1)
    await room.make(10)
    assert (room.letters, journal.find(written.id)) == (2, None)
    assert (
        f"to {written.to} is dropped after 4 tries: 503 Service Unavailable; 1 are" in caplog.text
    )
    caplog.clear()
    with pytest.raises(OutboxFull) as caught:
        await room.make(10)
    assert (caught.value.retry_after_s, room.letters) == (30, 2)
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert "2 webhooks are pending; 1 are pending to https://e.org:443" in line.getMessage()
    assert "e.org" not in str(caught.value.envelope())
