"""The engine's WebSocket side: who is connected, and what is sent to whom.

Messages are posted from any thread and leave in that order, from one task. The rules that look
odd are ComfyUI's: when two connections share a client id, the newer one gets the messages, and
the older one takes the newer one's registration with it when it closes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import uuid
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

logger = logging.getLogger("comfyfn.embedded")

PREVIEW_EVENT = 1
TEXT_EVENT = 3
PREVIEW_WITH_METADATA_EVENT = 4
_IMAGE_TYPES = {"JPEG": 1, "PNG": 2}


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture on its way to a client.

    Attributes:
        form: `JPEG` or `PNG`.
        metadata: whose picture it is, for clients that asked for it; None sends the old frame.
    """

    form: str
    image: Image
    metadata: dict[str, Any] | None = None

    def frame(self) -> bytes:
        """Encode the binary WebSocket message."""
        buffer = BytesIO()
        if self.form == "PNG":
            self.image.save(buffer, format="PNG", compress_level=1)
        else:
            self.image.save(buffer, format="JPEG", quality=95)
        if self.metadata is None:
            head = struct.pack(">II", PREVIEW_EVENT, _IMAGE_TYPES[self.form])
        else:
            told = {**self.metadata, "image_type": f"image/{self.form.lower()}"}
            text = json.dumps(told).encode()
            head = struct.pack(">II", PREVIEW_WITH_METADATA_EVENT, len(text)) + text
        return head + buffer.getvalue()


@dataclass(slots=True)
class Sockets:
    """The connected clients.

    Attributes:
        exec_info: gives the body of a `status` message.
        features: what the server tells when a client tells its feature flags.
        client_id: the client of the prompt that runs or ran last; None sends to everybody.
        last_node_id: the node that runs, told to that client when it reconnects.
        frozen: while set, messages are dropped instead of sent.
        refusing: while set, new connections are refused.
    """

    exec_info: Callable[[], dict[str, Any]]
    features: dict[str, Any]
    client_id: str | None = None
    last_node_id: str | None = None
    frozen: bool = False
    refusing: bool = False
    _connections: dict[str, web.WebSocketResponse] = field(default_factory=dict)
    _flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    _transports: set[asyncio.Transport] = field(default_factory=set)
    _outbox: asyncio.Queue[tuple[str, Any, str | None]] = field(default_factory=asyncio.Queue)
    _loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"Sockets({len(self._connections)} registered, {len(self._transports)} open)"

    def post(self, event: str, data: Any, client_id: str | None = None) -> None:
        """Send a message's `data`, a `Preview` or a finished frame to one client or to all.

        It may be called from any thread.
        """
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, (event, data, client_id))

    def post_status(self) -> None:
        """Tell everybody how many prompts are left."""
        self.post("status", {"status": self.exec_info()})

    def wants_preview_metadata(self, client_id: str | None) -> bool:
        """Tell whether a client asked for previews that say whose they are."""
        flags = self._flags.get(client_id, {}) if client_id is not None else {}
        return flags.get("supports_preview_metadata", False) is True

    @property
    def open_count(self) -> int:
        """Count the open connections, registered or not."""
        return len(self._transports)

    async def publish(self) -> None:
        """Send what is posted, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            event, data, client_id = await self._outbox.get()
            await self._send(event, data, client_id)

    def abort_all(self) -> None:
        """Break all connections without a closing handshake."""
        for transport in list(self._transports):
            transport.abort()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection on `/ws?clientId=ID` until it closes."""
        if self.refusing:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._connections[client_id] = socket
        self._flags[client_id] = {}
        transport = request.transport
        if transport is not None:
            self._transports.add(transport)
        try:
            await self._greet(client_id)
            await self._listen(client_id, socket)
        finally:
            self._connections.pop(client_id, None)
            self._flags.pop(client_id, None)
            if transport is not None:
                self._transports.discard(transport)
        return socket

    async def _greet(self, client_id: str) -> None:
        await self._send("status", {"status": self.exec_info(), "sid": client_id}, client_id)
        if self.client_id == client_id and self.last_node_id is not None:
            await self._send("executing", {"node": self.last_node_id}, client_id)

    async def _listen(self, client_id: str, socket: web.WebSocketResponse) -> None:
        """Answer feature flags, if they are the first JSON that the client sends."""
        first = True
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                told = json.loads(message.data)
            except ValueError:
                logger.warning("a client sent text that is no JSON")
                continue
            if first and isinstance(told, dict) and told.get("type") == "feature_flags":
                self._flags[client_id] = told.get("data", {})
                await self._send("feature_flags", self.features, client_id)
            first = False

    async def _send(self, event: str, data: Any, client_id: str | None) -> None:
        if self.frozen:
            return
        if client_id is None:
            targets = list(self._connections.values())
        else:
            targets = [self._connections[client_id]] if client_id in self._connections else []
        if not targets:
            return
        # Encoding a large picture takes long, and HTTP must stay responsive.
        frame = await asyncio.to_thread(data.frame) if isinstance(data, Preview) else data
        frame = frame if isinstance(frame, bytes) else None
        text = "" if frame is not None else json.dumps({"type": event, "data": data})
        for socket in targets:
            try:
                await (socket.send_str(text) if frame is None else socket.send_bytes(frame))
            except (ConnectionError, RuntimeError) as problem:
                # aiohttp raises RuntimeError for a socket that is closing.
                logger.warning("a message was not sent: %s", problem)
