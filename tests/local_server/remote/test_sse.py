"""Server-sent events, line by line."""

from __future__ import annotations

import pytest

from local_server.remote.faults import Truncated
from local_server.remote.sse import Event, SseReader, lines_of


def read(text, last=""):
    """Feed lines; give the events and the last id."""
    reader = SseReader(last)
    events = [event for line in text.split("\n") if (event := reader.feed(line))]
    return events, reader.last_id


def test_events_are_made_of_lines():
    """Comments and `retry` are none; data may have several lines."""
    text = 'retry: 2000\n\nid: 1\nevent: phase\ndata: {"phase":\ndata: "running"}\n\n: here\n\n'
    assert read(text) == ([Event("1", "phase", {"phase": "running"})], "1")


def test_what_was_cut_off_does_not_count():
    """Its id is not the last one: it is asked for again."""
    events, last = read('id: 1\nevent: progress\ndata: {}\n\nid: 2\nevent: output\ndata: {"a"')
    assert [event.id for event in events] == ["1"]
    assert last == "1"


def test_data_that_is_no_object_is_empty():
    """A server may be another than it seems."""
    assert read("data: [1]\n\ndata: {\n\ndata\n\n", "7") == (
        [Event("7", "message", {})] * 3,
        "7",
    )
    assert Event("", "failed", {}).final


async def lines(*blocks, **options):
    """Cut blocks as they come into lines."""

    async def come():
        for block in blocks:
            yield block

    return [line async for line in lines_of(come(), **options)]


async def test_lines_are_cut_wherever_blocks_end():
    """Also in the middle of a letter, and between the two marks of an end."""
    assert await lines(b"a: \xc3", b"\xa4\r", b"\n\nb", b"c\nrest") == ["a: \u00e4", "", "bc"]


async def test_an_event_that_does_not_end_is_given_up():
    """Be it one line, or line upon line: it would fill the memory."""
    with pytest.raises(Truncated):
        await lines(*[b"data: " + b"x" * 40] * 4, most=100)
    reader = SseReader(most=100)
    for line in ("data: " + "1" * 60, "") * 3:  # each of them ends
        reader.feed(line)
    reader.feed("data: " + "x" * 40)
    reader.feed("data: " + "x" * 40)
    with pytest.raises(Truncated):
        reader.feed("data: " + "x" * 40)
