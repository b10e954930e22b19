"""Volumes on Modal show what others committed only when they are asked to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from modal import exception

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("comfyfn.modal")
EVERY_S = 60.0


async def reload(volume: Any) -> bool:
    """See what others have committed; False where open files are in the way."""
    try:
        await volume.reload.aio()
    except (exception.Error, RuntimeError) as error:
        log.debug("a Volume stays as it was: %s", error)
        return False
    return True


async def commit(volume: Any) -> bool:
    """Let others see what is written; Modal does so at the end, too."""
    try:
        await volume.commit.aio()
    except (exception.Error, RuntimeError) as error:
        log.warning("a Volume is not committed yet: %s", error)
        return False
    return True


class Watch:
    """Reloads a Volume now and then while nothing runs: models that are new there are found.

    Args:
        idle: whether no job is in hand: one may be reading from it.
    """

    def __init__(self, volume: Any, idle: Callable[[], bool], every_s: float = EVERY_S) -> None:
        self._volume = volume
        self._idle = idle
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start watching, in the event loop that jobs run in."""
        self._task = asyncio.create_task(self._watch(), name="volume")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self._idle():
                await reload(self._volume)

    async def end(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
