"""What a job's end leaves to do: outputs kept, webhooks told, records written, figures counted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, InvalidPayload, JobCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handler.job import Job
    from handler.ledger import Ledger
    from handler.payload import PromptRequest
    from handler.pipeline.stages import Parts
    from handler.records import Output
    from handler.webhooks import Promised, Webhooks
    from handler.wire import Answer

log = logging.getLogger("comfyfn.service")


@dataclass(frozen=True, slots=True)
class _End:
    """How a job ended, and who takes it; see `Endings.over`."""

    answer: Answer | None
    error: HandlerError | None
    hand_over: Callable[[], bool]


class Endings:
    """Tells the ends of jobs to whom they concern.

    Args:
        webhooks: None where there are none: who asks for one is refused.
    """

    def __init__(self, parts: Parts, ledger: Ledger, webhooks: Webhooks | None) -> None:
        self._parts = parts
        self._ledger = ledger
        self._webhooks = webhooks
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[str, _End | None] = {}

    def __repr__(self) -> str:
        return f"<Endings {len(self._tasks)} being told>"

    async def open(self) -> None:
        """Deliver what an earlier process has left."""
        if self._webhooks is not None:
            await self._webhooks.open()

    async def letters(self) -> dict[str, int] | None:
        """Count the webhooks that are pending and given up; None where none was ever posted."""
        return None if self._webhooks is None else await self._webhooks.letters()

    async def drain(self, timeout_s: float) -> None:
        """Have everybody told who can be in a time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        if self._webhooks is not None:
            await self._webhooks.drain(max(0.0, deadline - loop.time()))

    async def close(self) -> None:
        """Finish what was begun: the ends of jobs must be on disk."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._webhooks is not None:
            await self._webhooks.close()

    # -- before a job -----------------------------------------------------------------------------

    async def check(self, request: PromptRequest) -> None:
        """Make sure that the webhooks of a request can be told.

        Raises:
            InvalidPayload, UrlNotAllowed: they cannot.
        """
        if request.webhook is None and request.webhook_v2 is None:
            return
        if self._webhooks is None:
            raise InvalidPayload(
                "this worker tells no webhooks",
                location="webhook" if request.webhook_v2 is None else "webhook_v2",
            )
        await self._webhooks.check(request)

    async def promise(self, job: Job, request: PromptRequest) -> Promised | None:
        """Make sure that a webhook is told even if this process dies."""
        if self._webhooks is None:
            return None
        return await self._webhooks.promise(job.id, job.uid, request, job.traceparent)

    def never_begun(self, job: Job, error: HandlerError | None) -> None:
        """End a job whose record is there, and which is not begun."""
        job.fail(error or JobCancelled("the caller went away"))
        self._parts.metrics.job_ended(job)
        self._ledger.end(job)

    def accepting(self, job: Job) -> None:
        """Hold back who is told: the caller may be told at once, on the connection."""
        self._accepting[job.uid] = None

    async def accepted(self, job: Job, promised: Promised | None) -> HandlerError | None:
        """Let them be told from now on.

        Returns:
            What the caller is to be told, in place of a webhook: the job has failed already.
        """
        end = self._accepting.pop(job.uid)
        if end is None:
            return None
        if end.error is not None:
            if promised is not None and self._webhooks is not None:
                await self._webhooks.withdraw(promised)
            self._ledger.end(job)
            return end.error
        self._spawn(job, promised, end)
        return None

    # -- after it ---------------------------------------------------------------------------------

    async def keep(self, job: Job, outputs: Sequence[Output], failed: bool) -> None:
        """Keep what was given to nobody, or may be asked for again.

        Args:
            failed: the outputs are there and could not be delivered.
        """
        again = job.asynchronous or job.key is not None or job.joined or self._ledger.shared
        if failed or again:
            await self._ledger.keep(job, outputs, self._parts.scratch / job.uid / "kept")

    def over(
        self,
        job: Job,
        promised: Promised | None,
        answer: Answer | None,
        error: HandlerError | None,
        *,
        hand_over: Callable[[], bool],
    ) -> None:
        """Have everybody told how a job ended; never waits.

        Args:
            hand_over: gives answer or error to who waits on a connection, and tells whether
                somebody does; nobody else may have the answer from then on.
        """
        self._parts.metrics.job_ended(job)
        end = _End(answer, error, hand_over)
        if job.uid in self._accepting:
            self._accepting[job.uid] = end
        elif promised is None and (hand_over() or answer is None):
            self._ledger.end(job)
        else:
            self._spawn(job, promised, end)

    def _spawn(self, job: Job, promised: Promised | None, end: _End) -> None:
        task = asyncio.create_task(self._tell(job, promised, end), name=f"tell-{job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, job: Job, promised: Promised | None, end: _End) -> None:
        try:
            if promised is not None and self._webhooks is not None:
                told: dict[str, Any] = {}
                if end.answer is not None:
                    told = await self._webhooks.complete(promised, end.answer)
                elif end.error is not None:
                    told = await self._webhooks.failed(promised, end.error)
                job.stats.setdefault("webhooks", told)
        except Exception:
            log.exception("job %s: its webhook was not told", job.id)
        finally:
            # After the letter: who finds the record over finds it told, too.
            self._ledger.end(job)
            if not end.hand_over() and end.answer is not None:
                await end.answer.close()
