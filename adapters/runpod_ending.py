"""How a RunPod worker ends without losing a job.

The SDK's own way is to wait for its open polls, up to 90 s, and a job that is handed out to one of
them meanwhile is never run. So the signals are taken over as soon as its loop runs: when no job is
in hand any more its tasks are cancelled, which closes the polls, and `runpod.serverless.start`
raises CancelledError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("comfyfn.runpod")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SETTLE_S = 0.05
"""A job whose bytes have arrived already is the SDK's after so long, and is run."""


class Ending:
    """Ends the SDK's loop: by a signal, or because this worker is of no use any more.

    Args:
        jobs: counts the SDK's jobs, from when one is here until its result is posted.
        limit_s: how long the jobs in hand have.
        concurrency: jobs that are taken at once.

    Attributes:
        status: the exit status that the process is to have.
        begun: it is on its way down.
        cut: what is in hand now is cancelled by us, and by no caller's wish.
    """

    def __init__(self, jobs: Callable[[], int], limit_s: float, concurrency: int = 1) -> None:
        self._jobs = jobs
        self._limit_s = limit_s
        self._concurrency = concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._until: float | None = None
        self.status = 0
        self.begun = False
        self.cut = False

    def __repr__(self) -> str:
        return f"<Ending begun={self.begun} jobs={self._jobs()}>"

    def concurrency(self, current: int) -> int:
        """Say how many jobs to take at once: the SDK asks in its loop, before each poll."""
        if self._loop is None:
            self._take_over()
        if not self.begun:
            return self._concurrency
        if self._jobs():
            return current + 1  # another number makes the SDK wait until no job is in hand
        task = asyncio.current_task()
        if task is not None:
            task.cancel()  # no poll is begun
        return current

    def _take_over(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        before = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        for number in SIGNALS:
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self.asked)
        # A signal came between the SDK's handler and ours.
        if before is not None and hasattr(before, "is_alive") and not before.is_alive():
            self.begin()

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        """Look again when a job's task is over: its result is posted then."""
        if task is not None:
            task.add_done_callback(lambda _: self._news.set())

    def asked(self) -> None:
        """Take a signal: the first asks for an orderly end, any other for one at once."""
        if self.begun:
            log.warning("asked again to stop: jobs in hand are cut short")
            self._until = time.monotonic()  # nothing is waited for after them, either
            self._cut()
        else:
            self.begin()

    def begin(self, status: int = 0) -> None:
        """End when the jobs in hand are over. Call it in the SDK's loop; again is fine."""
        self.status = self.status or status
        if self.begun or self._loop is None:
            return
        self.begun, self._until = True, time.monotonic() + self._limit_s
        log.info("stopping: %d jobs in hand", self._jobs())
        self._task = self._loop.create_task(self._end(), name="end")

    def begin_from_afar(self, status: int) -> None:
        """Do so from another thread."""
        if self._loop is not None and not self.begun:
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self.begin, status)

    async def _end(self) -> None:
        await asyncio.sleep(SETTLE_S)
        while self._jobs() and (left := self.left_s()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(left, 1.0))
        if self._jobs():
            log.warning("%d jobs were not over in %g s", self._jobs(), self._limit_s)
        self._cut()

    def left_s(self) -> float:
        """Give the seconds that are left of the limit."""
        until = self._until
        return self._limit_s if until is None else max(0.0, until - time.monotonic())

    def _cut(self) -> None:
        self.cut = self.cut or self._jobs() > 0  # one that was stopped is in hand no more
        for task in asyncio.all_tasks():
            if task is not self._task:
                task.cancel()


def leave(_number: int, _frame: Any) -> NoReturn:
    """End a process that has no loop of the SDK's yet: its `finally` clauses clean up.

    Raises:
        SystemExit: 0.
    """
    raise SystemExit(0)
