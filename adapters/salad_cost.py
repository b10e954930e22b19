"""The deletion cost of an instance: the jobs in hand, so that idle ones are ended first."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from adapters.salad_imds import ImdsFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger("comfyfn.salad")
LOOK_S = 0.25
AGAIN_S = 5.0


async def follow_jobs(
    count: Callable[[], int],
    tell: Callable[[int], Awaitable[None]],
    *,
    look_s: float = LOOK_S,
    again_s: float = AGAIN_S,
) -> NoReturn:
    """Tell the count of jobs whenever it has changed, for ever; what cannot be told is logged.

    Changes while it is being told, and between two looks, become one. The first count is told in
    any case: a process that died here may have left a high one.

    Args:
        tell: raises ImdsFailed.
        look_s: seconds between two looks.
        again_s: seconds after a failure.
    """
    told: int | None = None
    failing = False
    while True:
        jobs = count()
        if jobs != told:
            try:
                await tell(jobs)
            except ImdsFailed as fault:
                level = logging.DEBUG if failing else logging.WARNING  # once, not every few seconds
                log.log(level, "the deletion cost %d was not told: %s", jobs, fault.message)
                failing = True
                await asyncio.sleep(again_s)
                continue
            told, failing = jobs, False
        await asyncio.sleep(look_s)
