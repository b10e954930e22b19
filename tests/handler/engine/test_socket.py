import asyncio
import contextlib
import json
import logging

import pytest
from aiohttp import web

from handler.engine.client import ComfyClient
from handler.engine.messages import Status, Unknown
from handler.engine.socket import EngineSocket

BACKOFF_S = (0.01, 0.05)


class Engine:
    """A WebSocket server that greets like ComfyUI and can misbehave in each way that matters."""

    def __init__(self):
        self.port = 0
        self.opened = asyncio.Queue()
        self.open = set()
        self.most_open = 0
        self.greets = True
        self.frozen = False
        self.runner = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        app = web.Application()
        app.router.add_get("/ws", self.serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self):
        for transport in [ws._req.transport for ws in self.open]:
            if transport is not None:
                transport.abort()
        await self.runner.cleanup()

    async def serve(self, request):
        ws = web.WebSocketResponse(autoping=not self.frozen)
        await ws.prepare(request)
        self.open.add(ws)
        self.most_open = max(self.most_open, len(self.open))
        try:
            if self.greets:
                await self.say(ws, "status", status={"exec_info": {"queue_remaining": 0}}, sid="me")
            self.opened.put_nowait(ws)
            if self.frozen:
                self.frozen = False
                await asyncio.Event().wait()
            async for _ in ws:
                pass
        finally:
            self.open.discard(ws)
        return ws

    async def say(self, ws, kind, **data):
        await ws.send_str(json.dumps({"type": kind, "data": data}))


class Listener:
    """Keeps what the socket tells."""

    def __init__(self):
        self.messages = asyncio.Queue()
        self.states = asyncio.Queue()

    def on_message(self, message):
        self.messages.put_nowait(message)

    def on_state(self, connected, generation):
        self.states.put_nowait((connected, generation))

    async def next_state(self):
        return await asyncio.wait_for(self.states.get(), 10)


@pytest.fixture
async def engine():
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


@contextlib.asynccontextmanager
async def socket_to(url, listener, **options):
    client = ComfyClient(url, client_id="me", connect_timeout_s=2.0)
    socket = EngineSocket(
        client, listener.on_message, listener.on_state, backoff_s=BACKOFF_S, **options
    )
    socket.start()
    try:
        yield socket
    finally:
        await socket.stop()
        await client.close()


async def test_messages_are_read_and_handed_on_in_order(engine):
    """Frames become messages; what is not understood is handed on as well."""
    listener = Listener()
    async with socket_to(engine.url, listener) as socket:
        assert await socket.wait_connected(5)
        ws = await engine.opened.get()
        await ws.send_str("nonsense")
        await engine.say(ws, "status", status={"exec_info": {"queue_remaining": 3}})

        assert await listener.messages.get() == Status(0, "me")
        assert isinstance(await listener.messages.get(), Unknown)
        assert await listener.messages.get() == Status(3, None)
        assert repr(socket) == "<EngineSocket connected, generation 1>"
    assert await listener.next_state() == (True, 1)
    assert await listener.next_state() == (False, 1)
    assert not socket.connected
    assert socket.generation == 1


async def test_a_lost_connection_is_replaced_at_once(engine):
    """The listener hears of the gap and of the new generation."""
    listener = Listener()
    async with socket_to(engine.url, listener) as socket:
        first = await engine.opened.get()
        assert await listener.next_state() == (True, 1)
        # A connection that lived no longer than the first pause counts as a failed try.
        await asyncio.sleep(2 * BACKOFF_S[0])
        first._req.transport.abort()

        assert await listener.next_state() == (False, 1)
        assert await listener.next_state() == (True, 2)
        assert socket.connected
        assert engine.most_open == 1


async def test_a_connection_closed_by_the_engine_is_replaced(engine):
    """A proper close is as good a reason as any."""
    listener = Listener()
    async with socket_to(engine.url, listener):
        ws = await engine.opened.get()
        await ws.close()
        states = [await listener.next_state() for _ in range(3)]
    assert states == [(True, 1), (False, 1), (True, 2)]


async def test_an_engine_that_comes_later_is_found(unused_tcp_port):
    """Refused connections are tried again until the engine is there, and again after it died."""
    engine, listener = Engine(), Listener()
    engine.port = unused_tcp_port
    async with socket_to(engine.url, listener) as socket:
        assert not await socket.wait_connected(0.05)
        assert repr(socket) == "<EngineSocket disconnected, generation 0>"
        await engine.start()
        assert await socket.wait_connected(5)
        await engine.stop()
        assert [await listener.next_state() for _ in range(2)] == [(True, 1), (False, 1)]
        await engine.start()
        assert await listener.next_state() == (True, 2)
    await engine.stop()


async def test_a_frozen_engine_is_noticed_and_left(engine):
    """No pong, no connection: the socket opens another, after the old one is closed."""
    engine.frozen = True
    listener = Listener()
    async with socket_to(engine.url, listener, heartbeat_s=0.03, pong_timeout_s=0.05):
        states = [await listener.next_state() for _ in range(3)]
    assert states == [(True, 1), (False, 1), (True, 2)]


async def test_an_engine_that_does_not_greet_is_not_connected(engine):
    """Before the first message the engine may not route to the socket yet."""
    engine.greets = False
    listener = Listener()
    async with socket_to(engine.url, listener) as socket:
        ws = await engine.opened.get()
        assert not await socket.wait_connected(0.02)
        await engine.say(ws, "status", status={"exec_info": {"queue_remaining": 0}})
        assert await socket.wait_connected(5)


async def test_reconnect_replaces_an_open_connection(engine):
    """Asked for, the old connection is closed fully before the next is opened."""
    listener = Listener()
    async with socket_to(engine.url, listener) as socket:
        assert await socket.wait_connected(5)
        socket.reconnect()
        states = [await listener.next_state() for _ in range(3)]
        assert engine.most_open == 1
    assert states == [(True, 1), (False, 1), (True, 2)]


async def test_reconnect_without_a_connection_does_nothing(unused_tcp_port):
    """There is nothing to replace while the engine is away."""
    async with socket_to(f"http://127.0.0.1:{unused_tcp_port}", Listener()) as socket:
        socket.reconnect()
        assert not socket.connected


async def test_listeners_that_raise_do_not_end_the_socket(engine, caplog):
    """Their exceptions are logged, and the next message comes all the same."""
    got = asyncio.Queue()

    class Raising(Listener):
        def on_message(self, message):
            got.put_nowait(message)
            raise RuntimeError("no")

        def on_state(self, connected, generation):
            raise RuntimeError("nor this")

    with caplog.at_level(logging.ERROR, logger="comfyfn.engine"):
        async with socket_to(engine.url, Raising()) as socket:
            ws = await engine.opened.get()
            await got.get()
            await engine.say(ws, "status", status={"exec_info": {"queue_remaining": 1}})
            assert await got.get() == Status(1, None)
            assert socket.connected
    assert {"RuntimeError"} == {r.exc_info[0].__name__ for r in caplog.records if r.exc_info}


async def test_a_fault_of_the_client_does_not_end_the_socket(engine, caplog):
    """Whatever a connection brings, the next one is tried."""

    class Faulty(ComfyClient):
        faults = 1

        def frames(self, **options):
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of ours")
            return super().frames(**options)

    client, listener = Faulty(engine.url, client_id="me"), Listener()
    socket = EngineSocket(client, listener.on_message, listener.on_state, backoff_s=BACKOFF_S)
    socket.start()
    assert await socket.wait_connected(5)
    await socket.stop()
    await client.close()
    assert "a fault of ours" in caplog.text


async def test_start_and_stop_may_be_repeated(engine):
    """Starting twice opens one connection; a stopped socket can be started again."""
    client, listener = ComfyClient(engine.url, client_id="me"), Listener()
    socket = EngineSocket(client, listener.on_message, listener.on_state)
    await socket.stop()
    socket.start()
    socket.start()
    assert await socket.wait_connected(5)
    await socket.stop()
    await socket.stop()
    assert not socket.connected
    socket.start()
    assert await socket.wait_connected(5)
    assert engine.most_open == 1
    await socket.stop()
    await client.close()
    states = [await listener.next_state() for _ in range(4)]
    assert states == [(True, 1), (False, 1), (True, 2), (False, 2)]


async def test_stop_while_connecting_ends_at_once():
    """A server that accepts and says nothing does not hold the shutdown."""

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with (
            asyncio.timeout(1.5),
            socket_to(f"http://127.0.0.1:{port}", Listener()) as socket,
        ):
            assert not await socket.wait_connected(0.05)


async def test_raw_messages_are_tapped(engine, caplog):
    """All that is JSON, as it came; a tap that fails costs neither the message nor the next."""
    listener, heard = Listener(), []

    def tap(message):
        heard.append(message)
        raise RuntimeError("a fault of ours")

    async with socket_to(engine.url, listener) as socket:
        assert await socket.wait_connected(5)
        ws = await engine.opened.get()
        await asyncio.wait_for(listener.messages.get(), 5)
        socket.tap = tap
        await ws.send_str("nonsense")
        await ws.send_str("[]")
        await ws.send_bytes(b"12345678picture")
        await engine.say(ws, "monitor", load=1)
        await engine.say(ws, "status", status={"exec_info": {"queue_remaining": 3}})
        messages = [await asyncio.wait_for(listener.messages.get(), 5) for _ in range(5)]

    assert [type(message) for message in messages[:4]] == [Unknown] * 4
    assert messages[4] == Status(3, None)
    assert heard == [
        {"type": "monitor", "data": {"load": 1}},
        {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}}},
    ]
    told = [record.message for record in caplog.records]
    assert told == ["A listener to raw engine messages failed"] * 2
