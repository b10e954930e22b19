"""Conditions and parts of a file, as RFC 9110 has them."""

from __future__ import annotations

import pytest

from adapters.http_ranges import Span, range_holds, unchanged, wanted_span
from handler.errors import RangeNotSatisfiable


@pytest.mark.parametrize("size", range(1, 6))
def test_every_part_of_a_file_can_be_asked_for(size):
    """By positions, from one on, the last ones: what comes is what a slice gives."""
    data = bytes(range(size))

    def part(header):
        span = wanted_span(header, size)
        assert span is not None
        assert span.bytes == len(data[span.first : span.last + 1])
        return data[span.first : span.last + 1]

    for first in range(size):
        assert part(f"bytes={first}-") == data[first:]
        for last in range(first, size + 2):
            assert part(f"bytes={first}-{last}") == data[first : last + 1]
    for count in range(1, size + 2):
        assert part(f"bytes=-{count}") == data[-count:]


@pytest.mark.parametrize("header", ["bytes=5-", "bytes=5-9", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_what_is_behind_the_end_is_refused(header):
    """With how many bytes there are."""
    with pytest.raises(RangeNotSatisfiable) as caught:
        wanted_span(header, 5)
    assert caught.value.details == {"bytes": 5}


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes=", "bytes=-", "bytes=3-2", "bytes=0-1,3-4", "items=0-1", "bytes 0-1"),
        *("bytes=a-b", "bytes=0x1-2", "bytes=-1-2", "bytes=1-2-3", "bytes=²-"),
    ],
)
def test_what_is_none_is_passed_over(header):
    """All is sent then, also for several parts at once."""
    assert wanted_span(header, 5) is None


def test_a_last_position_is_cut_to_the_file():
    """However large it is."""
    assert wanted_span(f"bytes=1-{'9' * 5000}", 5) == Span(1, 4)
    assert wanted_span(f"BYTES = {'0' * 5000}1-2 ", 5) == Span(1, 2)


def test_of_an_empty_file_there_is_no_part():
    """Its last bytes are all of it, though."""
    assert wanted_span("bytes=-5", 0) is None
    with pytest.raises(RangeNotSatisfiable):
        wanted_span("bytes=0-", 0)


def test_a_part_counts_only_of_the_same_file():
    """A weak tag or a date does not say that it is."""
    assert range_holds(None, '"a"')
    assert range_holds('"a"', '"a"')
    assert not range_holds('"b"', '"a"')
    assert not range_holds('W/"a"', '"a"')
    assert not range_holds("Sun, 22 Nov 2026 14:13:10 GMT", '"a"')


def test_what_the_client_has_is_not_sent_again():
    """One of several tags, weak or not, or any."""
    assert unchanged('"a"', '"a"')
    assert unchanged('"b", W/"a"', '"a"')
    assert unchanged("*", '"a"')
    assert not unchanged('"b"', '"a"')
    assert not unchanged("", '"a"')
