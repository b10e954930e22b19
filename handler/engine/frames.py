"""One WebSocket connection to ComfyUI: raw frames in, and a watch over whether it still lives."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import aiohttp

from handler.errors import EngineDied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Previews need it: without, they carry neither prompt nor node. It must be the first text sent.
_HELLO = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'

_LOST = (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
_OVER = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, *_LOST)


class FrameStream:
    """The frames of one connection, as an async iterator that one reader consumes.

    The engine sends no pings and may be silent for hours, so silence is probed: after
    `heartbeat_s` without any frame a ping goes out, and without any frame in the next
    `pong_timeout_s` the connection counts as dead.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        *,
        heartbeat_s: float,
        pong_timeout_s: float,
    ) -> None:
        self._socket = socket
        self._heartbeat_s = heartbeat_s
        self._pong_timeout_s = pong_timeout_s
        self._now = asyncio.get_running_loop().time
        self._seen_at = self._now()
        self._closing = False
        self._silent = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Say hello; raises `EngineDied` where the connection is lost already."""
        try:
            await self._socket.send_str(_HELLO)
        except ConnectionError as error:
            await self.close()
            raise EngineDied("The connection to the engine was lost at once") from error
        self._watch = asyncio.create_task(self._watch_silence())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        await self.close()

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self._frames()

    async def close(self) -> None:
        """Close with a handshake where the engine answers; ends the reader's iteration."""
        self._closing = True
        await self._socket.close()

    async def _frames(self) -> AsyncIterator[str | bytes]:
        """Give frames until the connection is over.

        Raises:
            EngineDied: the connection was lost, or fell silent.
        """
        while True:
            message = await self._socket.receive()
            self._seen_at = self._now()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                yield message.data
            elif message.type is aiohttp.WSMsgType.PING:
                with contextlib.suppress(ConnectionError):
                    await self._socket.pong(message.data)
            elif message.type in _OVER:
                break
        if self._silent:
            raise EngineDied(f"The engine answered no ping in {self._pong_timeout_s:g} s")
        if message.type in _LOST and not self._closing:
            cause = message.data if isinstance(message.data, Exception) else None
            raise EngineDied("The connection to the engine was lost") from cause

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            if self._now() - self._seen_at < self._heartbeat_s:
                continue
            pinged_at = self._now()
            try:
                await self._socket.ping()
            except ConnectionError:
                return  # the reader learns the same
            await asyncio.sleep(self._pong_timeout_s)
            if self._seen_at < pinged_at:
                self._silent = True
                await self._socket.close()
                return
