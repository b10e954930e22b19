"""A job's progress for RunPod: seldom, in order, never falling, and never after the result.

The SDK's `progress_update` posts from a thread of its own, to the same place as the result: a late
one would overwrite it. One is begun when the one before has ended, and the result waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from handler.job import Job, JobEvent

EVERY_S = 1.0
LONGEST_WAIT_S = 10.0
"""The SDK tries a post three times, seconds apart."""

_LOOK_S = 0.01


class Progress:
    """Tells one job's progress.

    Args:
        post: hands one report over; it returns at once, and a thread sends it.
    """

    def __init__(self, post: Callable[[dict[str, Any]], None], every_s: float = EVERY_S) -> None:
        self._post = post
        self._every_s = every_s
        self._percent = 0.0
        self._last: dict[str, Any] | None = None
        self._threads: set[threading.Thread] = set()

    def __repr__(self) -> str:
        return f"<Progress {self._percent:.0f} %>"

    async def follow(self, job: Job) -> None:
        """Report a job's events until it is over, or this is cancelled."""
        events = asyncio.create_task(self._gather(job))
        try:
            while not events.done():
                await asyncio.wait({events}, timeout=self._every_s)
                report, self._last = self._last, None
                if report is not None and not events.done() and not self._under_way():
                    self._send(report)
        finally:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)

    async def _gather(self, job: Job) -> None:
        async with contextlib.aclosing(job.follow()) as following:
            async for event in following:
                report = self.report(event)
                if report is not None:
                    self._last = report

    def report(self, event: JobEvent) -> dict[str, Any] | None:
        """Give what an event is to the caller; None where it is no news."""
        data = event.data
        if event.type == "phase":
            return {"status": data["phase"], "percent": round(self._percent, 1)}
        if event.type == "progress":
            self._percent = max(self._percent, float(data.get("overall_pct") or 0.0))
            told = {"status": "running", "percent": round(self._percent, 1)}
            return {**told, "eta_s": data.get("eta_s"), "node": data.get("node_id")}
        return None

    def _send(self, report: dict[str, Any]) -> None:
        before = set(_senders())
        self._post(report)
        self._threads |= set(_senders()) - before

    def _under_way(self) -> bool:
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        return bool(self._threads)

    async def settled(self) -> None:
        """Wait until what was sent has arrived, or was given up."""
        until = time.monotonic() + LONGEST_WAIT_S
        while self._under_way() and time.monotonic() < until:  # noqa: ASYNC110 - threads
            await asyncio.sleep(_LOOK_S)


def _senders() -> Iterator[threading.Thread]:
    """Give the SDK's threads that post; Python names them by what they run."""
    return (one for one in threading.enumerate() if one.name.endswith("(_thread_target)"))
