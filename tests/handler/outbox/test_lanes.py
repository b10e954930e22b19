"""Whose turn it is."""

from __future__ import annotations

from handler.outbox.lanes import Lanes
from handler.outbox.records import Posted


def letter(letter_id: str, key: str = "", to: str = "https://e.org") -> Posted:
    return Posted(
        id=letter_id,
        message_id=letter_id,
        kind="x",
        order_key=key,
        to=to,
        signed=False,
        bytes=1,
        created=0,
        since=0,
    )


def ids(letters) -> list[str]:
    return [one.id for one in letters]


def test_letters_of_one_order_go_one_after_the_other():
    """Others do not wait for them."""
    lanes = Lanes(9, 9)
    for one in (letter("1", "job"), letter("2", "job"), letter("3")):
        lanes.add(one, 0)

    assert ids(lanes.take(0)) == ["1", "3"]
    assert ids(lanes.take(0)) == []
    lanes.remove("1")
    assert ids(lanes.take(0)) == ["2"]


def test_order_is_of_letters_to_one_host():
    """A receiver that is silent does not hold up another one of the same job."""
    lanes = Lanes(9, 9)
    for one in (letter("1", "job"), letter("2", "job", "https://f.org"), letter("3", "job")):
        lanes.add(one, 0)

    assert ids(lanes.take(0)) == ["1", "2"]


def test_letter_waits_for_its_time_and_holds_its_order():
    """A first try that failed does not let the second letter pass."""
    lanes = Lanes(9, 9)
    first = letter("1", "job")
    lanes.add(first, 0)
    lanes.add(letter("2", "job"), 0)
    lanes.take(0)
    lanes.again(first, 10)

    assert lanes.take(9.9) == []
    assert lanes.next_due() == 10
    assert ids(lanes.take(10)) == ["1"]
    assert lanes.next_due() is None


def test_hurry_makes_everything_due():
    """Each of it once."""
    lanes = Lanes(9, 9)
    for number in "12":
        lanes.add(letter(number), 100)
    lanes.hurry()
    lanes.hurry()

    assert ids(lanes.take(0)) == ["1", "2"]
    assert lanes.take(1000) == []
    assert lanes.next_due() is None


def test_one_host_takes_no_more_than_its_part():
    """A slow one leaves room for the others, in turns."""
    lanes = Lanes(3, 2)
    for number in range(4):
        lanes.add(letter(f"a{number}", to="https://a"), 0)
        lanes.add(letter(f"b{number}", to="https://b"), 0)

    assert ids(lanes.take(0)) == ["a0", "a1", "b0"]
    lanes.remove("a0")
    assert ids(lanes.take(0)) == ["a2"]
    lanes.remove("a1")
    lanes.remove("a2")
    assert ids(lanes.take(0)) == ["b1", "a3"]


def test_hosts_at_their_limit_do_not_lose_their_turn():
    """With more hosts than room, all of them come to it."""
    lanes = Lanes(1, 1)
    for host in "abc":
        for number in range(2):
            lanes.add(letter(f"{host}{number}", to=host), 0)
    order = []
    while taken := ids(lanes.take(0)):
        order += taken
        lanes.remove(taken[0])

    assert order == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_dropped_letters_are_not_tried():
    """Waiting, ready, behind another one, or under way."""
    lanes = Lanes(1, 1)
    letters = [letter("1", "job"), letter("2", "job"), letter("3"), letter("4")]
    for one in letters:
        lanes.add(one, 5 if one.id == "4" else 0)
    assert ids(lanes.take(0)) == ["1"]
    lanes.remove("2")
    lanes.remove("3")
    lanes.remove("4")
    lanes.remove("1")
    lanes.remove("1")
    lanes.again(letters[0], 0)

    assert lanes.take(100) == []
    assert len(lanes) == 0
    assert lanes.get("1") is None


def test_same_letter_may_come_back():
    """A dead one that is sent again."""
    lanes = Lanes(1, 1)
    for _ in range(2):
        lanes.add(letter("1"), 0)
        assert ids(lanes.take(0)) == ["1"]
        lanes.remove("1")
    assert repr(lanes) == "<Lanes 0 letters, 0 under way>"


def test_those_that_wait_are_not_under_way():
    """For who looks for one that can be given up."""
    lanes = Lanes(1, 1)
    for one in (letter("1"), letter("2")):
        lanes.add(one, 0)
    lanes.take(0)

    assert ids(lanes.waiting()) == ["2"]
