"""Keeps the engine's history empty: it holds whole graphs, and nobody reads them twice."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from handler.errors import HandlerError

if TYPE_CHECKING:
    from handler.engine.client import ComfyClient

FORGET_BATCH = 16
FORGET_AFTER_S = 1.0


class HistoryCleaner:
    """Deletes ended prompts from the engine's history, in batches and a little later."""

    def __init__(self, client: ComfyClient) -> None:
        self._client = client
        self._ids: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<HistoryCleaner {len(self._ids)} to forget>"

    def forget_later(self, prompt_id: str) -> None:
        """Take a prompt that is over; the engine may know nothing of it."""
        if self._closed:
            return
        self._ids.append(prompt_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FORGET_AFTER_S, self._forget_all)
        if len(self._ids) >= 2 * FORGET_BATCH:
            # Not the newest: ComfyUI writes the entry some milliseconds after it told the end.
            ids, self._ids = self._ids[:FORGET_BATCH], self._ids[FORGET_BATCH:]
            self._begin(ids)

    async def close(self) -> None:
        """Leave what is left to the engine's end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget_all(self) -> None:
        self._timer = None
        ids, self._ids = self._ids, []
        self._begin(ids)

    def _begin(self, ids: list[str]) -> None:
        task = asyncio.create_task(self._forget(ids))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forget(self, ids: list[str]) -> None:
        with contextlib.suppress(HandlerError):
            await self._client.forget(ids)
