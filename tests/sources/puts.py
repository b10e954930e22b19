"""A store on 127.0.0.1 that takes files by PUT and POST, and refuses when told to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class Put:
    """What was sent; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Store:
    """Files by path as it was sent, escapes and all.

    Attributes:
        replies: the next answers in place of 201: status, headers, body.
        drops: how many next requests lose their connection after the head.
        gate: waited for before each answer.
        most: requests under way at once.
    """

    port: int = 0
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    puts: list[Put] = field(default_factory=list)
    replies: list[tuple[int, dict[str, str], str]] = field(default_factory=list)
    drops: int = 0
    gate: asyncio.Event | None = None
    now: int = 0
    most: int = 0

    def url(self, path: str = "", host: str = "127.0.0.1", user: str = "") -> str:
        """Give the URL of a path."""
        return f"{self.scheme}://{user}{host}:{self.port}{path}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take what is sent."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.drops:
                self.drops -= 1
                assert request.transport is not None
                request.transport.close()
            body = await request.content.read()  # `read` has a limit
            raw, _, query = request.raw_path.partition("?")
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.puts.append(Put(request.method, raw, query, headers, body))
            if self.gate is not None:
                await self.gate.wait()
            if self.replies:
                status, extra, text = self.replies.pop(0)
                return web.Response(status=status, headers=extra, text=text)
            self.files[raw] = body
            return web.Response(status=201, headers={"ETag": '"e1"'})
        finally:
            self.now -= 1


@asynccontextmanager
async def storing(trust: ssl.SSLContext | None = None) -> AsyncIterator[Store]:
    """Run a store for the time of a block; over TLS with a context."""
    store = Store(scheme="https" if trust else "http")
    runner = web.ServerRunner(web.Server(store.answer, access_log=None), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust).start()
    store.port = runner.addresses[0][1]
    try:
        yield store
    finally:
        if store.gate is not None:
            store.gate.set()
        await runner.cleanup()
