"""Asking Salad for another node when this one cannot do the work."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING

from adapters.salad_imds import ImdsFailed
from adapters.salad_node import unfit

if TYPE_CHECKING:
    from adapters.salad_imds import Imds
    from adapters.salad_node import LineWatch
    from handler.health import HealthReport
    from handler.service import Handler

log = logging.getLogger("comfyfn.salad")
LOOK_S = 0.5
PAUSE_S = 120.0


class Reallocation:
    """Watches a worker and asks for another node, a few times at most.

    The limit holds for this process: the next node has an empty disk and knows nothing of this
    one. A fault that comes along, a `requires` that no node of the group meets, is not ended by it.

    Args:
        most: how often it asks; 0 for never.
        pause_s: how long it waits to be taken away before it asks again.
    """

    def __init__(
        self,
        handler: Handler,
        imds: Imds,
        line: LineWatch,
        *,
        most: int,
        look_s: float = LOOK_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._handler = handler
        self._imds = imds
        self._line = line
        self._most = most
        self._look_s = look_s
        self._pause_s = pause_s

    def __repr__(self) -> str:
        return f"<Reallocation at most {self._most} times, {self._line}>"

    async def watch(self) -> None:
        """Wait for a reason, and ask; return when nothing more can be done."""
        reason = await self._found()
        if not self._most:
            log.error("this node is unfit, and SALAD_REALLOCATIONS=0: %s", reason)
            return
        accepted = False
        for _ in range(self._most):
            accepted = await self._ask(reason) or accepted
            await asyncio.sleep(self._pause_s)
        if not accepted:
            log.error("no other node could be asked for: this one goes on as it can")
            return
        # It takes no more jobs: let the platform start it anew.
        log.error("another node was promised, and this one goes on: it ends itself")
        signal.raise_signal(signal.SIGTERM)

    async def _found(self) -> str:
        while True:
            if reason := self._reason(self._handler.health()):
                return reason
            await asyncio.sleep(self._look_s)

    async def _ask(self, reason: str) -> bool:
        try:
            await self._imds.reallocate(reason)
        except ImdsFailed as fault:
            log.error("another node was not given (%s): %s", fault.message, reason)
            return False
        log.error("another node is asked for: %s", reason)
        await self._handler.drain()  # who comes now would be cut off
        return True

    def _reason(self, report: HealthReport) -> str | None:
        if (reason := unfit(report)) is not None:
            return reason
        models = (report.boot.get("manifest") or {}).get("models") or ()
        # What is fetched beside the jobs is no reason to end them.
        before = [one for one in models if one["when"] == "before_start"]
        return None if report.started else self._line.see(before, time.monotonic())
