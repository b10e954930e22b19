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
LEAST_S = 5.0
"""Between two expiries, however short the retention is."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often what is done, in seconds."""

    beat_s: float = 15.0
    expire_s: float = 300.0

    @classmethod
    def of(cls, state: State) -> Rhythm:
        """Keep nothing much longer than was promised: a short retention is looked after sooner."""
        shortest = min(filter(None, (state.retention_s, state.outputs_s)), default=0.0)
        expire_s = min(cls().expire_s, max(LEAST_S, shortest / 4))
        return cls(min(cls().beat_s, expire_s), expire_s)


async def tend(
    state: State,
    ended: Callable[[JobRecord], Awaitable[None]],
    rhythm: Rhythm | None = None,
) -> None:
    """Do it until cancelled. A place that does not answer is told in the log, and asked again.

    Args:
        ended: told of each job of a lost worker that we have failed.
    """
    rhythm = rhythm or Rhythm.of(state)

    async def beat() -> None:
        await state.instances.beat(time.time())

    async def look() -> None:
        for record in await state.instances.orphans(time.time(), time.monotonic()):
            await ended(record)

    async def clean() -> None:
        await expire(state, time.time())

    # Side by side: thousands of records may take minutes, and who gives no sign of life is lost.
    async with asyncio.TaskGroup() as group:
        group.create_task(_repeat(beat, rhythm.beat_s))
        group.create_task(_repeat(look, rhythm.beat_s))
        # First soon after the start: many a worker does not live long, and its folder must not
        # grow for that.
        group.create_task(_repeat(clean, rhythm.expire_s, first_s=rhythm.beat_s))


async def _repeat(
    work: Callable[[], Awaitable[None]], pause_s: float, first_s: float = 0.0
) -> None:
    await asyncio.sleep(first_s)
    while True:
        try:
            await work()
        except StateUnavailable as fault:
            log.warning("the state cannot be tended: %s", fault.message)
        except Exception:  # the others must go on
            log.exception("the state cannot be tended: a fault of ours")
        # Workers that were started together need not look together.
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311


async def expire(state: State, now: float) -> None:
    """Remove the outputs, records and events that have been kept for long enough."""
    outputs = await state.kept.expire(now)
    records = await state.store.expire(now, state.retention_s, state.outputs_s)
    events = await state.events.expire(now - max(state.retention_s, state.outputs_s))
    if outputs or records or events:
        log.debug("expired: %d outputs, %d records, %d event logs", outputs, records, events)
