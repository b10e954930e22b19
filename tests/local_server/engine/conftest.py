"""A running embedded engine, and a client that speaks ComfyUI's protocol to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from local_server.engine.config import EngineConfig
from local_server.engine.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 20.0
Message = dict[str, Any]


@dataclass(slots=True)
class Connection:
    """One WebSocket connection that keeps all it gets."""

    socket: aiohttp.ClientWebSocketResponse
    messages: list[Message] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            async with self._arrived:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.messages.append(json.loads(message.data))
                else:
                    self.messages.append({"frame": message.data})
                self._arrived.notify_all()
        async with self._arrived:
            self.messages.append({"type": "closed", "data": {}})
            self._arrived.notify_all()

    async def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Wait until a message came, and give the first such."""
        async with asyncio.timeout(TIMEOUT_S), self._arrived:
            await self._arrived.wait_for(lambda: any(map(wanted, self.messages)))
        return next(filter(wanted, self.messages))

    async def until_type(self, kind: str) -> Message:
        return await self.until(lambda message: message.get("type") == kind)

    async def until_end(self, prompt_id: str, count: int = 1) -> None:
        """Wait until a prompt is over, for the `count`th time."""
        end = {"node": None, "prompt_id": prompt_id}
        await self.until(lambda message: self.of("executing").count(end) >= count)

    def types(self) -> list[str]:
        return [message.get("type", "binary") for message in self.messages]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.messages if message.get("type") == kind]

    async def close(self) -> None:
        await self.socket.close()
        if self._reader is not None:
            await self._reader


@dataclass(slots=True)
class Client:
    """Speaks to one engine."""

    engine: Engine
    session: aiohttp.ClientSession
    connections: list[Connection] = field(default_factory=list)

    async def connect(self, client_id: str = "client", path: str | None = None) -> Connection:
        """Open a WebSocket and wait for its greeting."""
        socket = await self.session.ws_connect(path or f"/ws?clientId={client_id}")
        connection = Connection(socket)
        connection.start()
        self.connections.append(connection)
        await connection.until(lambda message: True)
        return connection

    def url(self, path: str) -> URL:
        """Give a whole URL of a path that is quoted already."""
        return URL(f"http://127.0.0.1:{self.engine.port}{path}", encoded=True)

    async def get(self, path: str, **options: Any) -> Any:
        async with self.session.get(self.url(path), **options) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        async with self.session.post(path, json=body) as answer:
            assert answer.status == status, await answer.text()
            text = await answer.text()
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def submit(self, graph: Any, client_id: str | None = None, **more: Any) -> str:
        """Queue a prompt that is accepted."""
        client = {} if client_id is None else {"client_id": client_id}
        answer = await self.post("/prompt", {"prompt": graph, **client, **more})
        return answer["prompt_id"]

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """Wait for a prompt's history entry."""
        async with asyncio.timeout(TIMEOUT_S):
            while not (found := await self.get(f"/history/{quote(prompt_id, safe='')}")):
                await asyncio.sleep(0.002)
        return found[prompt_id]

    async def idle(self) -> None:
        """Wait until no prompt is left."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.engine.queue.remaining():
                await asyncio.sleep(0.002)

    async def run(self, graph: Any, **more: Any) -> dict[str, Any]:
        """Run a prompt to its end."""
        return await self.ended(await self.submit(graph, **more))

    async def settle(self) -> None:
        """Wait until all messages posted so far have reached the registered connections."""
        self.engine.sockets.post("settled", {})
        for connection in self.connections:
            if not connection.socket.closed and self.engine.sockets.open_count:
                await connection.until_type("settled")

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()
        await self.session.close()


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start engines with settings of the test's own, all on the same folders."""
    clients: list[Client] = []

    async def started(**changes: Any) -> Client:
        config = EngineConfig.below(tmp_path, test_faults=changes.pop("test_faults", True))
        engine = Engine(replace(config, **changes))
        await engine.start()
        session = aiohttp.ClientSession(f"http://127.0.0.1:{engine.port}")
        clients.append(Client(engine, session))
        return clients[-1]

    yield started
    for client in clients:
        await client.engine.stop()
        await client.close()


@pytest.fixture
async def client(start: Start) -> Client:
    """A client of an engine with fault nodes and default settings."""
    return await start()
