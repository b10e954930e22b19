"""A RunPod job through the handler: to the dict that is posted, in the handler's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.runpod_job import LOCAL_ID, Clocks, read_job
from adapters.runpod_progress import Progress
from adapters.runpod_result import breaks_worker, check_size, failure, unreserved
from handler.errors import HandlerError
from handler.health import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from adapters.runpod_job import Given
    from handler.entrance import Entry
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.runpod")
T = TypeVar("T")
TRIES = 3


class Work:
    """Runs jobs; make it in the handler's loop.

    Args:
        ending: tells whether this worker ends its jobs by itself: it is no caller who stops them.
    """

    def __init__(
        self, handler: Handler, settings: Settings, ending: Callable[[], bool] = lambda: False
    ) -> None:
        self.handler = handler
        self._settings = settings
        self._ending = ending
        self._clocks = Clocks()
        self._ticking = asyncio.ensure_future(self._clocks.tick())
        self._booting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Work {self.handler!r}>"

    async def boot(self) -> None:
        """Boot and warm up, once.

        Raises:
            HandlerError: as `Handler.start`.
        """
        if self._booting is None:
            self._booting = asyncio.ensure_future(self.handler.start())
        await asyncio.shield(self._booting)

    async def run(
        self, job: dict[str, Any], post: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Run a job, and give what is posted of it; whatever went wrong is in it.

        Args:
            post: sends a report of its progress.
        """
        call = None
        try:
            given = await self.begin(job)
            call = given.call
            return await self.entered(given, partial(self._told, job, given, post))
        except Exception as error:  # noqa: BLE001 - told to the caller, and to the log
            envelope = self.failed(error)
            return call.failure(envelope) if call is not None else envelope

    async def _told(
        self,
        job: dict[str, Any],
        given: Given,
        post: Callable[[dict[str, Any]], None],
        entry: Entry,
    ) -> dict[str, Any]:
        async with self.accompanied(entry, job, post), await self.answer(entry, given) as answer:
            check_size(answer, given.limit)
            return unreserved(given.call.answer(await answer.json()))

    async def entered(self, given: Given, ask: Callable[[Entry], Awaitable[T]]) -> T:
        """Enter a job, and give what is made of the entry.

        One that was one with a run elsewhere, whose worker was ended or died, is run here: the
        platform hands it out no more, and what is posted is its end.

        Raises:
            HandlerError: it is refused, or as it ended.
        """
        left = TRIES
        while True:
            entry = await self.handler.enter(given.call.payload, given.submission)
            left -= 1
            try:
                return await ask(entry)
            except HandlerError as fault:
                if entry.mine is not None or not fault.retryable or not left:
                    raise
                log.warning("job %s: what it was one with is lost: %s", entry.id, fault.message)

    async def begin(self, job: dict[str, Any]) -> Given:
        """Make sure that jobs can be run, and read one.

        Raises:
            HandlerError: the worker has not booted, or the job cannot be read.
        """
        await self.boot()
        revive = getattr(self.handler, "revive", None)
        if self._clocks.jumped() and revive is not None:
            log.info("the process was frozen: connections are renewed")
            await revive()
        settings = self._settings
        return read_job(
            job, settings, stored=bool(settings.output_storage), streams=settings.runpod_stream
        )

    async def answer(self, entry: Entry, given: Given) -> Any:
        """Wait for an entry; cancelling this is the platform's stop, and ends its run."""
        try:
            return await self.handler.answer(entry)
        except asyncio.CancelledError:
            if not self._ending():
                await self.stop(entry, given)
            raise

    async def stop(self, entry: Entry, given: Given) -> None:
        """End exactly the run of this job, wherever it is; not one that another job began."""
        run = entry.job if entry.job is not None else entry.record
        key = given.submission.key
        if entry.mine is None and (run is None or key is None or run.key != key):
            return
        if run is not None and getattr(run, "joined", 0) > (entry.mine is None):
            return  # others wait for it, too
        log.info("job %s is stopped", entry.id)
        if entry.mine is not None:
            self.handler.cancel(entry.id)
            return
        with contextlib.suppress(HandlerError):
            await self.handler.stored.cancel(entry.id)

    @contextlib.asynccontextmanager
    async def accompanied(
        self, entry: Entry, job: dict[str, Any], post: Callable[[dict[str, Any]], None]
    ) -> AsyncIterator[None]:
        """Tell a job's progress for the time of a block, and nothing of it after."""
        if entry.job is None or job.get("id") == LOCAL_ID:
            yield
            return
        progress = Progress(post)
        telling = asyncio.ensure_future(progress.follow(entry.job))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await progress.settled()

    def failed(self, error: BaseException) -> dict[str, Any]:
        """Give the envelope of what went wrong; with it another worker is asked for, if need be."""
        envelope = failure(error)
        if breaks_worker(envelope) or self.unhealthy():
            envelope["refresh_worker"] = True
        return envelope

    def unhealthy(self) -> bool:
        """Tell whether no job will be run here any more."""
        return self.handler.health().health is Health.UNHEALTHY

    async def close(self, drain_s: float) -> None:
        """Tell who is to be told yet, and end the handler."""
        self._ticking.cancel()
        if self._booting is not None and not self._booting.done():
            self._booting.cancel()
            await asyncio.gather(self._booting, return_exceptions=True)
        else:
            await self.handler.drain(drain_s)
        await self.handler.stop()
