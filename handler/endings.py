"""What a job's end leaves to do: outputs kept, webhooks told, records written, figures counted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, InvalidPayload, JobCancelled, StateUnavailable
from handler.job import RECORD_TEXT_CHARS as TEXT
from handler.ledger import KEEP_PLAIN_S
from handler.webhook_notes import LEGACY, V2, awaited, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from handler.job import Job
    from handler.ledger import Ledger
    from handler.payload import PromptRequest
    from handler.pipeline.stages import Parts
    from handler.records import Output
    from handler.tracing.tracer import NullTracer, Tracer
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

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        webhooks: Webhooks | None,
        tracer: Tracer | NullTracer,
    ) -> None:
        self._parts = parts
        self._ledger = ledger
        self._webhooks = webhooks
        self._tracer = tracer
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[str, _End | None] = {}

    def __repr__(self) -> str:
        return f"<Endings {len(self._tasks)} being told>"

    async def open(self) -> None:
        """Deliver what an earlier process has left."""
        if self._webhooks is not None:
            await self._webhooks.open()

    async def pause(self) -> None:
        """Hold no file open; `renew` must follow."""
        if self._webhooks is not None and not self._tasks and not self._accepting:
            await self._webhooks.renew()

    async def renew(self) -> None:
        """Begin anew with the webhooks after a freeze, unless one is being posted just now."""
        if self._webhooks is not None and not self._tasks and not self._accepting:
            await self._webhooks.renew()
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
        await self._tracer.close()

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
        promised = await self._webhooks.promise(job.id, job.uid, request, job.trace.header)
        if promised is not None:
            named = {LEGACY: promised.legacy, V2: promised.v2}
            job.webhooks = awaited(key for key, url in named.items() if url is not None)
        return promised

    def never_begun(self, job: Job, promised: Promised | None, error: HandlerError | None) -> None:
        """End a job whose record is there, and which is not begun."""
        # Not the end of its key: whoever sends it again is not the one that went away.
        job.fail(error or JobCancelled("the caller went away", retryable=True))
        self._count(job)
        job.webhooks = {}
        self._ledger.end(job)
        if promised is not None:
            self._track(self._withdraw(job, promised), f"withdraw-{job.id}")

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
            # Of its own: the caller may go away meanwhile.
            await asyncio.shield(self._track(self._withdraw(job, promised), f"withdraw-{job.id}"))
            return end.error
        self._spawn(job, promised, end)
        return None

    def unheard(self, job: Job, promised: Promised | None) -> None:
        """Let them be told from now on, of whatever end: the caller has gone away."""
        end = self._accepting.pop(job.uid)
        if end is not None:
            self._spawn(job, promised, end)

    async def _withdraw(self, job: Job, promised: Promised | None) -> None:
        job.webhooks = {}
        try:
            if promised is not None and self._webhooks is not None:
                await self._webhooks.withdraw(promised)
        finally:
            self._ledger.end(job)

    # -- after it ---------------------------------------------------------------------------------

    def keeps(self, job: Job) -> bool:
        """Whether the outputs of a job are kept whatever comes."""
        return job.asynchronous or job.key is not None or self._ledger.shared

    async def keep(self, job: Job, outputs: Sequence[Output], failed: bool) -> None:
        """Keep what was given to nobody, or may be asked for again.

        Args:
            failed: the outputs are there and could not be delivered.
        """
        folder = self._parts.scratch / job.uid / "kept"
        if failed or job.joined or job.asynchronous or job.key is not None:
            await self._ledger.keep(job, outputs, folder)
        elif self._ledger.shared and not self._ledger.away:
            await self._ledger.keep(job, outputs, folder, KEEP_PLAIN_S)

    def lost(self, job: Job, promised: Promised | None) -> HandlerError | None:
        """Tell whether nobody can have what came out: it could not be kept, and nobody waits."""
        if not job.asynchronous or promised is not None or job.joined:
            return None
        gone = [
            output.filename
            for output, name in zip(job.outputs, job.kept, strict=True)
            if not name and output.url is None and (output.text is None or len(output.text) > TEXT)
        ]
        if not gone:
            return None
        return StateUnavailable(
            f"the result could not be kept: {gone[0]}",
            hint="is there space where STATE_URL or STATE_DIR is, and within OUTPUT_MAX_MB?",
            details={"filenames": gone},
        )

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
        self._count(job)
        end = _End(answer, error, hand_over)
        if job.uid in self._accepting:
            self._accepting[job.uid] = end
        elif promised is None and (hand_over() or answer is None):
            self._ledger.end(job)
        else:
            self._spawn(job, promised, end)

    def _count(self, job: Job) -> None:
        self._parts.metrics.job_ended(job)
        self._tracer.job_ended(job, job.trace, job.ran, adapter=job.adapter)
        job.ran = None  # it holds the graph, and the job is remembered for an hour

    def _spawn(self, job: Job, promised: Promised | None, end: _End) -> None:
        self._track(self._tell(job, promised, end), f"tell-{job.id}")

    def _track(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell(self, job: Job, promised: Promised | None, end: _End) -> None:
        try:
            if promised is not None and self._webhooks is not None:
                if end.answer is not None:
                    told = await self._webhooks.complete(promised, end.answer)
                    job.webhooks = settled(job.webhooks, told, len(end.answer.outputs))
                elif end.error is not None:
                    told = await self._webhooks.failed(promised, end.error)
                    job.webhooks = settled(job.webhooks, told, 1)
        except Exception:
            log.exception("job %s: its webhook was not told", job.id)
        finally:
            # After the letter: who finds the record over finds it told, too.
            self._ledger.end(job)
            if not end.hand_over() and end.answer is not None:
                await end.answer.close()
