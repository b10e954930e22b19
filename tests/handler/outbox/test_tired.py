"""Which pending letters give way."""

from __future__ import annotations

import pytest

from handler.outbox.lanes import Lanes
from handler.outbox.records import Posted, Terms
from handler.outbox.tired import next_tired

SICK, WELL = "https://sick.org", "https://well.org"


def filled(*letters):
    """Give lanes of (id, host, tries)."""
    lanes = Lanes(9, 9)
    for letter_id, to, tries in letters:
        letter = Posted(
            id=letter_id,
            message_id=letter_id,
            kind="x",
            order_key="",
            to=to,
            signed=True,
            bytes=100,
            created=0,
            since=0,
            tries=tries,
        )
        lanes.add(letter, 0 if letter_id.startswith("now") else 10)
    return lanes


def picked(lanes, **terms):
    """Give the ids in the order in which they give way."""
    ids = []
    while (letter := next_tired(lanes, Terms(**terms))) is not None:
        ids.append(letter.id)
        lanes.remove(letter.id)
    return ids


def test_the_oldest_that_failed_several_times_goes():
    """What was tried less, or not at all, stays."""
    lanes = filled(("a", SICK, 0), ("b", SICK, 3), ("c", WELL, 2), ("d", WELL, 4))
    assert picked(lanes) == ["b", "d"]


@pytest.mark.parametrize("terms", [{"max_letters": 6}, {"max_bytes": 600}])
def test_one_host_that_fails_keeps_its_share(terms):
    """By number and by bytes; who hangs leaves no time to try each."""
    sick = [(str(number), SICK, 3 if number == 4 else 0) for number in range(5)]
    lanes = filled(("w", WELL, 0), *sick)
    assert picked(lanes, **terms) == ["0", "1", "4"]


def test_a_host_that_takes_its_letters_may_have_all_of_it():
    """Many jobs are not a fault."""
    lanes = filled(*((str(number), WELL, number % 3) for number in range(9)))
    assert picked(lanes, max_letters=9) == []


def test_what_is_under_way_stays():
    """It may be taken in this moment."""
    lanes = filled(("now", SICK, 5), ("b", SICK, 5))
    assert [letter.id for letter in lanes.take(1)] == ["now"]
    assert picked(lanes) == ["b"]
