"""What a worker does for the state while it lives: signs of life, lost workers' jobs, expiry."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.state.place import State
    from handler.state.records import JobRecord

log = logging.getLogger("comfyfn.state")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often what is done, in seconds."""

    beat_s: float = 15.0
    expire_s: float = 300.0


async def tend(
    state: State,
    ended: Callable[[JobRecord], Awaitable[None]],
    rhythm: Rhythm | None = None,
) -> None:
    """Do it until cancelled. A place that does not answer is told in the log, and asked again.

    Args:
        ended: told of each job of a lost worker that we have failed.
    """
    rhythm = rhythm or Rhythm()
    expired = time.monotonic()
    while True:
        try:
            await state.instances.beat(time.time())
            for record in await state.instances.orphans(time.time(), time.monotonic()):
                await ended(record)
            if time.monotonic() - expired >= rhythm.expire_s:
                expired = time.monotonic()
                await expire(state, time.time())
        except StateUnavailable as fault:
            log.warning("the state cannot be tended: %s", fault.message)
        # Workers that were started together need not look together.
        await asyncio.sleep(rhythm.beat_s * random.uniform(0.8, 1.2))  # noqa: S311


async def expire(state: State, now: float) -> None:
    """Remove the outputs, records and events that have been kept for long enough."""
    outputs = await state.kept.expire(now)
    records = await state.store.expire(now, state.retention_s, state.outputs_s)
    events = await state.events.expire(now - max(state.retention_s, state.outputs_s))
    if outputs or records or events:
        log.debug("expired: %d outputs, %d records, %d event logs", outputs, records, events)
