"""Streams that are closed whatever happens, and work that ends with its client."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.requests import Request
from worker import serving, until

from adapters.asgi_streams import Streamed, in_threads, unless_gone
from handler.errors import JobCancelled


class Blocks:
    """Gives blocks, and remembers that it was closed."""

    def __init__(self, *blocks, then=None):
        self._blocks = blocks
        self._then = then
        self.closed = []

    async def give(self):
        try:
            for block in self._blocks:
                yield block
            if self._then is not None:
                await self._then.wait()
        finally:
            self.closed.append("blocks")

    async def close(self):
        self.closed.append("file")


def app(source):
    async def serve(scope, receive, send):
        await Streamed(source.give(), close=source.close)(scope, receive, send)

    return serve


async def test_a_stream_is_sent_and_closed():
    """What gives the blocks first, then what they come from."""
    source = Blocks(b"a", b"b")
    async with serving(app(source)) as client:
        assert (await client.get("/")).content == b"ab"
        await until(lambda: source.closed == ["blocks", "file"])


async def test_a_client_that_leaves_closes_its_stream():
    """In the middle of it."""
    source = Blocks(b"a", then=asyncio.Event())
    async with serving(app(source)) as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response.aiter_bytes()) == b"a"
        await until(lambda: source.closed == ["blocks", "file"])


async def test_a_stream_that_never_began_is_closed():
    """Its generator cannot do that: it has not run."""
    source = Blocks(b"a")

    async def send(message):
        raise OSError("the connection is gone")

    async def receive():
        await asyncio.Event().wait()

    with pytest.raises(OSError, match="gone"):
        await Streamed(source.give(), close=source.close)({"type": "http"}, receive, send)
    assert source.closed == ["file"]


def request(gone):
    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "GET", "path": "/", "headers": []}, receive)


async def test_work_is_waited_for_while_the_client_is_there():
    """Its result and its faults are the answer."""

    async def raises():
        raise KeyError("x")

    async def gives():
        return 5

    here = request(asyncio.Event())
    assert await unless_gone(here, gives()) == 5
    with pytest.raises(KeyError):
        await unless_gone(here, raises())


async def test_work_ends_when_the_client_goes():
    """It is cancelled."""
    gone, ended = asyncio.Event(), asyncio.Event()

    async def works():
        try:
            gone.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(JobCancelled):
        await unless_gone(request(gone), works())
    await asyncio.wait_for(ended.wait(), 5)


async def test_blocks_are_made_in_threads():
    """In order, to the end."""
    names = []

    def blocks():
        for block in (b"a", b"b"):
            names.append(threading.current_thread() is threading.main_thread())
            yield block

    assert [block async for block in in_threads(blocks())] == [b"a", b"b"]
    assert names == [False, False]


async def test_what_a_thread_raises_is_raised():
    """And the generator is over."""

    def blocks():
        yield b"a"
        raise OSError("disk")

    made = in_threads(blocks())
    assert await anext(made) == b"a"
    with pytest.raises(OSError, match="disk"):
        await anext(made)


@pytest.mark.parametrize("raises", [False, True])
async def test_who_leaves_amid_a_block_closes_after_it(raises):
    """A generator cannot be closed while a thread is in it."""
    entered, on, closed = threading.Event(), threading.Event(), threading.Event()

    def blocks():
        try:
            entered.set()
            on.wait()
            if raises:
                raise OSError("disk")
            yield b"a"
        finally:
            closed.set()

    made = in_threads(blocks())
    step = asyncio.ensure_future(anext(made))
    await until(entered.is_set)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert not closed.is_set()
    on.set()
    await until(closed.is_set)


async def test_who_leaves_between_blocks_closes_at_once():
    """What the generator holds is let go."""
    closed = threading.Event()

    def blocks():
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.set()

    made = in_threads(blocks())
    await anext(made)
    await made.aclose()
    assert closed.is_set()


async def test_plain_iterators_need_no_closing():
    """A list's has no end to tell."""
    made = in_threads(iter([b"a", b"b"]))
    assert await anext(made) == b"a"
    await made.aclose()
