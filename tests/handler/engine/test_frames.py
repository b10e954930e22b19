import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from handler.engine.frames import FrameStream
from handler.errors import EngineDied


@contextlib.asynccontextmanager
async def served(behave, **ws_options):
    """Serve one WebSocket whose behaviour is `behave(ws, request)`; give its URL."""

    async def handle(request):
        ws = web.WebSocketResponse(**ws_options)
        await ws.prepare(request)
        await behave(ws, request)
        return ws

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def stream_to(url, *, heartbeat_s=5.0, pong_timeout_s=5.0):
    timeout = aiohttp.ClientWSTimeout(ws_close=0.1)
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url, autoping=False, max_msg_size=0, timeout=timeout)
        options = {"heartbeat_s": heartbeat_s, "pong_timeout_s": pong_timeout_s}
        async with FrameStream(socket, **options) as stream:
            yield stream


async def test_the_first_text_sent_asks_for_preview_metadata():
    """The engine heeds the flags only in the first message."""
    got = []

    async def behave(ws, request):
        got.append(await ws.receive_json())

    async with served(behave) as url, stream_to(url) as stream:
        assert [frame async for frame in stream] == []
    flags = {"supports_preview_metadata": True}
    assert got == [{"type": "feature_flags", "data": flags}]


async def test_frames_come_in_order_until_the_engine_closes():
    """Text and binary frames pass as they are; a proper close ends the iteration."""

    async def behave(ws, request):
        await ws.send_str("a")
        await ws.ping(b"?")
        await ws.send_bytes(b"b" * (5 << 20))

    async with served(behave) as url, stream_to(url) as stream:
        assert [frame async for frame in stream] == ["a", b"b" * (5 << 20)]


async def test_a_ping_of_the_engine_is_answered():
    """The connection lives for engines that do ping."""
    got = []

    async def behave(ws, request):
        await ws.receive()
        await ws.ping(b"there?")
        got.append(await ws.receive())

    async with served(behave, autoping=False) as url, stream_to(url) as stream:
        assert [frame async for frame in stream] == []
    assert got[0].type is aiohttp.WSMsgType.PONG
    assert got[0].data == b"there?"


async def test_a_cut_connection_raises():
    """A killed engine sends no close frame."""

    async def behave(ws, request):
        await ws.receive()
        await ws.send_str("a")
        request.transport.abort()

    async with served(behave) as url, stream_to(url) as stream:
        frames = aiter(stream)
        assert await anext(frames) == "a"
        with pytest.raises(EngineDied):
            await anext(frames)


async def test_a_frame_against_the_protocol_raises_with_its_cause():
    """Garbage on the wire is a lost connection."""

    async def behave(ws, request):
        await ws.receive()
        request.transport.write(b"\x7f" * 8)
        await ws.receive()

    async with served(behave) as url, stream_to(url) as stream:
        with pytest.raises(EngineDied) as caught:
            async for _ in stream:
                pass
    assert isinstance(caught.value.__cause__, aiohttp.WebSocketError)


async def test_a_silent_engine_that_answers_pings_is_kept():
    """Silence alone is no fault: an idle engine says nothing for hours."""

    async def behave(ws, request):
        await ws.receive()
        for _ in range(2):
            message = await ws.receive()
            assert message.type is aiohttp.WSMsgType.PING
            await ws.pong(message.data)
        await ws.send_str("still here")

    async with (
        served(behave, autoping=False) as url,
        stream_to(url, heartbeat_s=0.02, pong_timeout_s=0.5) as stream,
    ):
        assert [frame async for frame in stream] == ["still here"]


async def test_a_frozen_engine_is_noticed():
    """An engine that answers no ping is given up after the deadline."""

    async def behave(ws, request):
        await asyncio.Event().wait()

    async with (
        served(behave, autoping=False) as url,
        stream_to(url, heartbeat_s=0.02, pong_timeout_s=0.05) as stream,
    ):
        begun = asyncio.get_running_loop().time()
        with pytest.raises(EngineDied):
            async for _ in stream:
                pass
        assert asyncio.get_running_loop().time() - begun < 2.0


async def test_busy_connections_are_not_pinged():
    """Where frames come, there is nothing to probe."""
    got = []

    async def behave(ws, request):
        await ws.receive()
        reader = asyncio.create_task(ws.receive())
        for _ in range(150):
            await ws.send_str("x")
            await asyncio.sleep(0.008)
        await ws.close()
        got.append(await reader)

    async with (
        served(behave, autoping=False) as url,
        stream_to(url, heartbeat_s=0.6, pong_timeout_s=0.6) as stream,
    ):
        assert len([frame async for frame in stream]) == 150
    assert got[0].type is not aiohttp.WSMsgType.PING


async def test_close_ends_the_reader_without_an_error():
    """Who closes on purpose hears of no loss."""

    async def behave(ws, request):
        await ws.send_str("a")
        async for _ in ws:
            pass

    async with served(behave) as url, stream_to(url) as stream:
        got = []
        async for frame in stream:
            got.append(frame)
            await stream.close()
        assert got == ["a"]


async def test_a_connection_lost_before_hello_raises():
    """The context is not entered on a dead connection."""

    async def behave(ws, request):
        await ws.receive()

    async with served(behave) as url, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url)
        await socket.close()
        with pytest.raises(EngineDied):
            async with FrameStream(socket, heartbeat_s=5, pong_timeout_s=5):
                pass
