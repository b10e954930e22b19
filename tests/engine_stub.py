"""A server that answers like an engine whose state a test sets; it has no WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from handler.engine.client import ComfyClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Stub:
    """What it has and does.

    Attributes:
        running, pending: prompt ids, as /queue tells them; orders do not change them by themselves.
        heeds: orders do change them.
        hang: paths that are never answered.
        hold: submits are answered, and queued, only once this is set.
        refuse: statuses by method and path, `POST /queue`.
        posts: path and body of each order.
        looks: paths of everything else that was asked.
    """

    def __init__(self) -> None:
        self.running: list[str] = []
        self.pending: list[str] = []
        self.history: dict[str, Any] = {}
        self.heeds = self.lose_submits = self.lose_looks = False
        self.hang: set[str] = set()
        self.refuse: dict[str, int] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.node_errors: dict[str, Any] = {}
        self.posts: list[tuple[str, Any]] = []
        self.looks: list[str] = []

    def posted(self, path: str) -> list[Any]:
        """Give the bodies of the orders to one path."""
        return [body for to, body in self.posts if to == path]

    async def answer(self, request: web.Request) -> web.Response:
        """Answer whatever is asked."""
        body = await request.json() if request.method == "POST" else None
        if body is not None:
            self.posts.append((request.path, body))
        if request.path in self.hang:
            await asyncio.Event().wait()
        if status := self.refuse.get(f"{request.method} {request.path}"):
            return web.Response(status=status)
        if body is not None:
            return await self._ordered(request, body)
        if request.path != "/ws":
            self.looks.append(request.path)
        if self.lose_looks or request.path == "/ws":
            return _lost(request)
        if request.path == "/queue":
            queues = {"queue_running": self.running, "queue_pending": self.pending}
            return web.json_response(
                {k: [[0, i, {}, {}, []] for i in v] for k, v in queues.items()}
            )
        return web.json_response(self.history)

    async def _ordered(self, request: web.Request, body: Any) -> web.Response:
        if request.path == "/prompt":
            if self.lose_submits:
                return _lost(request)
            if not self.hold.is_set():
                await self.hold.wait()
                self.running.append(body["prompt_id"])
            return web.json_response({"prompt_id": "p", "node_errors": self.node_errors})
        if self.heeds and request.path == "/queue":
            self.pending = [i for i in self.pending if i not in body["delete"]]
        if self.heeds and request.path == "/interrupt":
            self.running = [i for i in self.running if i != body["prompt_id"]]
        return web.Response()


def _lost(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=503)


@contextlib.asynccontextmanager
async def stub_engine() -> AsyncIterator[tuple[Stub, ComfyClient]]:
    """Give a stub and a client of it."""
    stub = Stub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}", client_id="x")
    try:
        yield stub, client
    finally:
        await client.close()
        await runner.cleanup()
