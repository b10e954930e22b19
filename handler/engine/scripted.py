"""A ComfyUI that replays a transcript: for tests and dry runs, over real HTTP and WebSockets.

A transcript is `{"http": [...], "ws": [...]}` in order of time `t` (seconds). An answer is
`{"t", "method", "path", "status", "response_body"}`; a frame is `{"t", "conn", ...}` with either
`text` (JSON), `binary` (see `binary_frame`), or `event` (`open` with the path, or `closed`).

Order is kept, time is not waited for: a frame goes out as soon as the requests that came before
it in the transcript were made. Only POSTs hold frames back, since only they have effects.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from aiohttp import WSMsgType, web
from yarl import URL

_WS_PATH = "/ws"
_IDLE: dict[str, Any] = {"queue_running": [], "queue_pending": []}


def binary_frame(told: dict[str, Any]) -> bytes:
    """Make a preview frame out of a recorded one: true header, image cut to its first bytes."""
    image = bytes.fromhex(told["image_magic_hex"])
    head = int(told["event_type"]).to_bytes(4, "big")
    if "metadata" in told:
        metadata = json.dumps(told["metadata"]).encode()
        return head + len(metadata).to_bytes(4, "big") + metadata + image
    return head + int(told["image_type"]).to_bytes(4, "big") + image


class _Connection:
    """What one recorded connection sends; `client_id` None where its opening is not recorded."""

    def __init__(self, client_id: str | None) -> None:
        self.client_id = client_id
        self.entries: list[dict[str, Any]] = []
        self.taken = False


class ScriptedEngine:
    """Serves one transcript on a free port of 127.0.0.1; an async context manager.

    Requests are matched by method and path, query included. Each gets the next recorded answer,
    the last one again and again. What was not recorded: an idle queue, an empty history, else 404.
    Connections are matched by clientId, in the order in which they were opened.

    Attributes:
        requests: `(method, path, body)` of each request so far, body as JSON where it is.
    """

    def __init__(self, transcript: dict[str, Any], *, port: int = 0) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self._port = port
        self._answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._made: dict[tuple[str, str], int] = {}
        for entry in transcript["http"]:
            if "status" in entry:
                key = (entry["method"], _path(entry["path"]))
                self._answers.setdefault(key, []).append(entry)
        self._connections = _connections(transcript["ws"])
        self._progress = asyncio.Condition()
        self._open: set[asyncio.Transport] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it serves, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the port; a second start after `stop` goes on where the script was, same port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Drop all connections, without a close frame, as a killed engine does."""
        self.drop_sockets()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def drop_sockets(self) -> None:
        """Cut the WebSockets and go on serving."""
        for transport in list(self._open):
            transport.abort()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == _WS_PATH and request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        self.requests.append((request.method, request.path_qs, await _body(request)))
        answer = self._answer((request.method, _path(request.path_qs)))
        async with self._progress:
            self._progress.notify_all()
        return answer

    def _answer(self, key: tuple[str, str]) -> web.Response:
        recorded = self._answers.get(key)
        if recorded is None:
            return _unrecorded(*key)
        made = self._made.get(key, 0)
        self._made[key] = made + 1
        return _response(recorded[min(made, len(recorded) - 1)])

    def _released_until(self) -> float:
        """Give the time of the first POST in the transcript that was not made yet."""
        open_posts = (
            entry["t"]
            for (method, path), entries in self._answers.items()
            if method == "POST"
            for entry in entries[self._made.get((method, path), 0) :]
        )
        return min(open_posts, default=float("inf"))

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        transport = request.transport
        if transport is None:  # gone already
            return socket
        self._open.add(transport)
        script = self._next_connection(request.query.get("clientId", ""))
        sender = asyncio.create_task(self._send(transport, socket, script.entries))
        try:
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            self._open.discard(transport)
            sender.cancel()
            await asyncio.wait({sender})
        return socket

    def _next_connection(self, client_id: str) -> _Connection:
        for connection in self._connections:
            if connection.client_id in (None, client_id) and not connection.taken:
                connection.taken = True
                return connection
        extra = _Connection(client_id)
        extra.entries = [{"t": float("-inf"), "text": _greeting(client_id)}]
        return extra

    async def _send(
        self,
        transport: asyncio.Transport,
        socket: web.WebSocketResponse,
        entries: list[dict[str, Any]],
    ) -> None:
        for entry in entries:
            await self._due(entry["t"])
            if "text" in entry:
                await socket.send_str(json.dumps(entry["text"]))
            elif "binary" in entry:
                await socket.send_bytes(binary_frame(entry["binary"]))
            elif entry.get("event") == "closed":
                transport.abort()

    async def _due(self, at: float) -> None:
        async with self._progress:
            while at > self._released_until():
                await self._progress.wait()


def _connections(frames: list[dict[str, Any]]) -> list[_Connection]:
    found: dict[str, _Connection] = {}
    for frame in frames:
        name = frame.get("conn", "main")
        if frame.get("event") == "open":
            found[name] = _Connection(URL(frame["path"]).query.get("clientId", ""))
        elif "conn" in frame or "text" in frame or "binary" in frame:
            # Some recordings begin after the connection was opened; any client takes those.
            found.setdefault(name, _Connection(None)).entries.append(frame)
    return list(found.values())


def _greeting(client_id: str) -> dict[str, Any]:
    return {
        "type": "status",
        "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client_id},
    }


def _path(path: str) -> str:
    return str(URL(path.removeprefix("/api")))


def _unrecorded(method: str, path: str) -> web.Response:
    if method == "GET" and path == "/queue":
        return web.json_response(_IDLE)
    if method == "GET" and path.startswith("/history"):
        return web.json_response({})
    return web.Response(status=200 if method == "POST" else 404)


def _response(entry: dict[str, Any]) -> web.Response:
    body = entry.get("response_body")
    if isinstance(body, str):
        return web.Response(status=entry["status"], text=body)
    if body is not None:
        return web.json_response(body, status=entry["status"])
    media_type = entry.get("content_type", "application/octet-stream").split(";")[0]
    # A file: its size is a fact, its bytes were not kept.
    filler = b"{}" if media_type == "application/json" else bytes(entry.get("content_length", 0))
    return web.Response(status=entry["status"], body=filler, content_type=media_type)


async def _body(request: web.Request) -> Any:
    data = await request.read()
    if request.content_type != "application/json":
        return data
    try:
        return json.loads(data)
    except ValueError:
        return data
