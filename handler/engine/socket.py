"""The one WebSocket that all jobs share, opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

from handler.engine.messages import Message, loads, parse
from handler.errors import HandlerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.engine.base import Tap
    from handler.engine.client import ComfyClient
    from handler.engine.frames import FrameStream

_log = logging.getLogger("comfyfn.engine")


class EngineSocket:
    """Keeps one connection open until stopped, and hands on each message.

    Args:
        client: whose `client_id` the connection has; nothing else may connect with it.
        on_message: called for each message, in order; what it raises is logged.
        on_state: called with `(connected, generation)` at each change. `generation` counts the
            connections: a new one means that messages may have been lost in between.
        heartbeat_s, pong_timeout_s: see `FrameStream`.
        backoff_s: first and longest pause between tries that fail; the first try is at once.

    Attributes:
        tap: given every JSON message as it came, before `on_message`; pictures are none.
    """

    def __init__(
        self,
        client: ComfyClient,
        on_message: Callable[[Message], None],
        on_state: Callable[[bool, int], None],
        *,
        heartbeat_s: float = 5.0,
        pong_timeout_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        self._client = client
        self._on_message = on_message
        self._on_state = on_state
        self._heartbeat_s = heartbeat_s
        self._pong_timeout_s = pong_timeout_s
        self._backoff_s = backoff_s
        self.tap: Tap | None = None
        self._generation = 0
        self._connected = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stream: FrameStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<EngineSocket {state}, generation {self._generation}>"

    @property
    def connected(self) -> bool:
        """Whether the engine greeted the present connection and it was not lost since."""
        return self._connected.is_set()

    @property
    def generation(self) -> int:
        """How many connections there have been."""
        return self._generation

    def start(self) -> None:
        """Begin to connect, in the running loop; does nothing where it was begun."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._keep_connected(), name="engine-socket")

    async def stop(self) -> None:
        """Close the connection and end; `start` may be called again."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping.set()
        if self._stream is not None:
            await self._stream.close()
        else:
            task.cancel()
        await asyncio.wait({task})

    def reconnect(self) -> None:
        """Replace a connection that is open and yet does not get what it should."""
        if self._stream is not None:
            # Kept referenced: the loop itself holds tasks only weakly.
            self._closing = asyncio.create_task(self._stream.close())

    async def wait_connected(self, timeout_s: float) -> bool:
        """Wait for a connection and tell whether there is one in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        return self.connected

    async def _keep_connected(self) -> None:
        first_s, longest_s = self._backoff_s
        now = asyncio.get_running_loop().time
        pause_s = 0.0
        while not self._stopping.is_set():
            generation, since = self._generation, now()
            try:
                await self._run_connection()
            except HandlerError as error:
                # While the engine boots or restarts, refusals are the rule.
                level = logging.DEBUG if self._generation == generation else logging.WARNING
                _log.log(level, "Engine socket: %s", error.message)
            except Exception:  # noqa: BLE001 - the loop must outlive it
                _log.exception("Engine socket failed")
            if self._generation > generation and now() - since >= first_s:
                pause_s = 0.0
            else:
                pause_s = min(longest_s, pause_s * 2) or first_s
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        if pause_s == 0.0:
            return
        # Jitter: many workers of one machine must not knock in step.
        jittered_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(jittered_s):
                await self._stopping.wait()

    async def _run_connection(self) -> None:
        frames = self._client.frames(
            heartbeat_s=self._heartbeat_s, pong_timeout_s=self._pong_timeout_s
        )
        try:
            async with frames as stream:
                self._stream = stream
                if self._stopping.is_set():
                    return
                async for frame in stream:
                    if not self._connected.is_set():
                        self._tell_connected()
                    self._hand_on(frame)
        finally:
            self._stream = None
            self._tell_disconnected()

    def _tell_connected(self) -> None:
        # At the first frame, not at the handshake: only then the engine routes to this socket.
        self._generation += 1
        self._connected.set()
        self._tell_state(connected=True)

    def _tell_disconnected(self) -> None:
        if self._connected.is_set():
            self._connected.clear()
            self._tell_state(connected=False)

    def _tell_state(self, *, connected: bool) -> None:
        try:
            self._on_state(connected, self._generation)
        except Exception:  # noqa: BLE001 - a listener must not end the loop
            _log.exception("A listener to the engine socket's state failed")

    def _hand_on(self, frame: str | bytes) -> None:
        if self.tap is not None and isinstance(frame, str):
            self._hand_to(self.tap, frame)
        try:
            self._on_message(parse(frame))
        except Exception:  # noqa: BLE001 - a listener must not end the loop
            _log.exception("A listener to engine messages failed")

    def _hand_to(self, tap: Tap, frame: str) -> None:
        try:
            message = loads(frame)
            if isinstance(message, dict):
                tap(message)
        except ValueError:
            pass  # `parse` tells it
        except Exception:  # noqa: BLE001 - a listener must not end the loop
            _log.exception("A listener to raw engine messages failed")
