"""Blocking calls of the transfers, in threads of their own.

Python's shared pool has a handful of threads: a few slow servers would hold them all, and with
them whatever else of this process needs one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

T = TypeVar("T")


class Threads:
    """A pool that knows how to leave a call behind.

    Args:
        most: threads at once; started when needed.
    """

    def __init__(self, most: int = 64) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="transfer")

    async def call(
        self,
        work: Callable[[], T],
        *,
        abort: Callable[[], None] | None = None,
        dispose: Callable[[T], None] | None = None,
    ) -> T:
        """Do a blocking call. When cancelled, it is left to end by itself.

        Args:
            abort: called on cancellation, to make the call end.
            dispose: called with a result that came too late.
        """
        future = self._begun(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if abort is not None:
                abort()
            future.add_done_callback(lambda done: _left(done, dispose))
            raise

    async def finish(self, work: Callable[[], T], *, abort: Callable[[], None]) -> T:
        """Do a blocking call that must have ended before this does, cancelled or not."""
        future = self._begun(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            abort()
            while not future.done():
                try:
                    await asyncio.wait({future})
                except asyncio.CancelledError:
                    continue  # the call uses what the caller is about to close
            _left(future, None)
            raise

    def _begun(self, work: Callable[[], T]) -> asyncio.Future[T]:
        # What it logs is said of the caller's job.
        run = contextvars.copy_context().run
        return asyncio.get_running_loop().run_in_executor(self._pool, run, work)

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _left(done: asyncio.Future[T], dispose: Callable[[T], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and dispose is not None:
        dispose(done.result())


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they are gone, even when cancelled meanwhile."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    cancelled = False
    while left := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError:
            cancelled = True  # what they use is about to be closed
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: another fault is the one that is told
    if cancelled:
        raise asyncio.CancelledError


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine during a block, and end it after."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await ended({task})
