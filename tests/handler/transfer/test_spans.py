"""Sets of bytes."""

from __future__ import annotations

import random

import pytest

from handler.transfer.spans import Spans, pieces


def test_what_touches_becomes_one():
    """In whatever order it comes."""
    spans = Spans([(10, 20), (30, 40), (0, 5), (20, 30), (5, 6), (7, 7), (4, 5)])

    assert spans.as_list() == [(0, 6), (10, 40)]
    assert (spans.covered(), spans.prefix()) == (36, 6)
    assert spans.missing(50) == [(6, 10), (40, 50)]
    assert repr(spans) == "<Spans [(0, 6), (10, 40)]>"


@pytest.mark.parametrize("seed", range(20))
def test_it_is_a_set_of_bytes(seed):
    """As Python's own sets have it."""
    draw = random.Random(seed)
    spans, bytes_ = Spans(), set()
    for _ in range(60):
        start = draw.randrange(200)
        end = start + draw.randrange(12)
        spans.add(start, end)
        bytes_ |= set(range(start, end))

    assert {byte for start, end in spans.as_list() for byte in range(start, end)} == bytes_
    assert spans.covered() == len(bytes_)
    missing = {byte for start, end in spans.missing(150) for byte in range(start, end)}
    assert missing == set(range(150)) - bytes_
    assert spans.prefix() == min(set(range(300)) - bytes_)


def test_pieces_cover_the_holes():
    """None is longer than told."""
    assert pieces([(0, 5), (10, 31)], 10) == [(0, 5), (10, 20), (20, 30), (30, 31)]
    assert Spans().missing(0) == []
