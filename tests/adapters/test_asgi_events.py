"""Events as a browser reads them."""

from __future__ import annotations

import asyncio
import json

import pytest
from http_worker import told

from adapters.asgi_events import RETRY_MS, event_id, frame, sse
from handler.errors import StateUnavailable
from handler.state.event_log import LoggedEvent as Told


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("0", 0), ("", 0), ("x", 0), ("-1", 0), ("²", 0), ("٣", 0), ("9" * 5000, 0)],
)
def test_the_last_event_id_is_a_number_of_ours(text, number):
    """What is none resumes nothing."""
    assert event_id(text) == number


def test_an_event_is_one_block():
    """Line breaks in its data are escaped."""
    text = frame(Told(3, "output", {"text": "a\nb\r\n\n", 5: "ü"})).decode()
    assert text.endswith("\n\n")
    (block,) = told(text)
    assert (block["id"], block["event"]) == ("3", "output")
    assert json.loads(block["data"]) == {"text": "a\nb\r\n\n", "5": "ü"}


class Events:
    """Events that come when they are let."""

    def __init__(self, *events, then=None):
        self._events = events
        self._then = then
        self.closed = False

    async def give(self):
        try:
            for event in self._events:
                yield event
            if isinstance(self._then, Exception):
                raise self._then
            if self._then is not None:
                await self._then.wait()
        finally:
            self.closed = True


async def test_a_stream_begins_with_how_soon_to_come_again():
    """Sent before anything has happened."""
    source = Events(Told(2, "phase", {}), Told(3, "succeeded", {}))
    text = b"".join([block async for block in sse(source.give(), Told(1, "phase", {}))]).decode()
    assert text.startswith(f"retry: {RETRY_MS}\n")
    assert [block["id"] for block in told(text)] == ["1", "2", "3"]
    assert source.closed


async def test_silence_is_filled_with_comments():
    """Proxies close what is silent."""
    source = Events(Told(1, "phase", {}), then=asyncio.Event())
    stream = sse(source.give(), keepalive_s=0.01)
    blocks = [await anext(stream) for _ in range(4)]
    assert blocks[2:] == [b": still here\n\n"] * 2
    await stream.aclose()
    assert source.closed


async def test_a_listener_that_leaves_while_events_come_closes_them():
    """Between two of them nothing is waited for."""
    source = Events(Told(1, "phase", {}), Told(2, "phase", {}))
    stream = sse(source.give())
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert source.closed


async def test_events_that_cannot_be_read_end_the_stream():
    """Who comes again is told why."""
    source = Events(Told(1, "phase", {}), then=StateUnavailable("gone"))
    blocks = [block async for block in sse(source.give())]
    assert len(blocks) == 2
