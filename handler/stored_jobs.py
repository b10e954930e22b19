"""Jobs as any worker may be asked for them: in this process, or known from the ledger."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from handler.errors import InvalidPayload, NotFound, ResultGone, StateUnavailable, WorkerLost
from handler.state.archive import Entry as ZipEntry
from handler.state.event_log import LoggedEvent
from handler.stored import stored_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from handler.job import Job, JobBoard
    from handler.ledger import Ledger
    from handler.pipeline.stages import Parts
    from handler.state.kept import KeptFile
    from handler.state.records import JobRecord, OutputRecord
    from handler.wire import Answer

LONGEST_PAGE = 200
_NAMED = 5


class StoredJobs:
    """Finds jobs, their results, their outputs and their events, by id.

    Args:
        cancel: cancels the unfinished jobs of an id in this process; tells whether there was one.
        position: of a job in the queue.
    """

    def __init__(
        self,
        parts: Parts,
        jobs: JobBoard,
        ledger: Ledger,
        cancel: Callable[[str], bool],
        position: Callable[[Job], int | None],
    ) -> None:
        self._parts = parts
        self._jobs = jobs
        self._ledger = ledger
        self._cancel = cancel
        self._position = position

    def __repr__(self) -> str:
        return f"<StoredJobs {self._ledger!r}>"

    # -- what a job is ----------------------------------------------------------------------------

    async def public(self, job_id: str) -> dict[str, Any]:
        """Give what `GET /jobs/{id}` answers.

        Raises:
            NotFound: it is not known here.
        """
        job = await self._here(job_id)
        if job is not None:
            return self._public(job)
        return record_public(await self.record(job_id))

    async def _here(self, job_id: str) -> Job | None:
        """Find the job in this process, unless another worker has had a newer one of that id."""
        job = self._jobs.find(job_id)
        if job is None or not job.phase.final or not self._ledger.shared:
            return job
        record = None
        with contextlib.suppress(StateUnavailable):
            record = await self._ledger.find(job_id)
        newer = record is not None and record.uid != job.uid and record.created > job.created_at
        return None if newer else job

    async def page(
        self, status: str | None, adapter: str | None, after: str | None, limit: int
    ) -> dict[str, Any]:
        """Give what `GET /jobs` answers: the newest first.

        Args:
            status: a value of `Phase`; `active` and `over` for all that are, and are not, at work.
            after: `next` of the page before.
            limit: the most on this page.

        Raises:
            InvalidPayload: `after` is none of ours.
        """
        limit = max(1, min(limit, LONGEST_PAGE))

        def wanted(record: JobRecord) -> bool:
            fits = status in (None, record.phase, "over" if record.final else "active")
            return fits and adapter in (None, record.adapter)

        try:
            page = await self._ledger.page(wanted, after, limit)
        except ValueError as error:
            raise InvalidPayload(
                "this is no page of jobs", location="after", hint="send `next` of the page before"
            ) from error
        if page is None:
            return {"jobs": self._in_memory(status, adapter)[:limit], "next": None}
        return {"jobs": [self._listed(record) for record in page.records], "next": page.cursor}

    def _in_memory(self, status: str | None, adapter: str | None) -> list[dict[str, Any]]:
        return [
            self._public(job)
            for job in self._jobs.newest()
            if status in (None, job.phase.value, "over" if job.phase.final else "active")
            and adapter in (None, job.adapter)
        ]

    def _listed(self, record: JobRecord) -> dict[str, Any]:
        job = self._jobs.by_uid(record.uid)
        return self._public(job) if job is not None else record_public(record)

    def _public(self, job: Job) -> dict[str, Any]:
        return {
            **job.public(),
            "outputs": [_with_href(job.id, one) for one in job.public_outputs()],
            "adapter": job.adapter,
            "instance": self._ledger.worker,
            "position": self._position(job),
        }

    async def record(self, job_id: str) -> JobRecord:
        """Give what is known of a job, as it is now.

        Raises:
            NotFound: it is not known here.
        """
        job = await self._here(job_id)
        if job is not None:
            return await self._ledger.record_of(job)
        record = await self._ledger.find(job_id)
        if record is None:
            raise self._ledger.unknown(job_id)
        return record

    # -- its result -------------------------------------------------------------------------------

    async def answer(
        self, record: JobRecord | None, job: Job | None, head: dict[str, Any]
    ) -> Answer:
        """Wait for a run that somebody else began, and give its answer.

        Args:
            record, job: of it; the job where it is in this process.

        Raises:
            HandlerError: as the job ended.
            WorkerLost: it is gone.
            ResultGone: its outputs are not kept.
        """
        if job is not None:
            await job.ended()
            record = await self._ledger.record_of(job)
        elif record is not None:
            record = await self._ledger.wait(record)
        if record is None:
            raise ResultGone("the result was not kept", hint="is STATE_DIR writable?")
        if not record.final:
            raise WorkerLost("the worker that had the job ended without a word", retryable=True)
        state = await self._ledger.opened()
        return await stored_answer(record, head, state, self._parts.scratch)

    async def result(self, job_id: str) -> Answer | None:
        """Give the answer of a job that is over; None while it is not.

        Raises:
            HandlerError: as the job ended.
            NotFound: it is not known here.
            ResultGone: its outputs are not kept.
        """
        record = await self.record(job_id)
        if not record.final:
            return None
        state = await self._ledger.opened()
        return await stored_answer(record, {"id": record.id}, state, self._parts.scratch)

    # -- its outputs ------------------------------------------------------------------------------

    async def output(self, job_id: str, name: str) -> tuple[JobRecord, OutputRecord]:
        """Find a kept output.

        Raises:
            NotFound: there is none of that name.
        """
        record = await self.record(job_id)
        found = record.output(name) if name else None
        if found is None or not found.kept:
            kept = [one.name for one in record.outputs if one.kept]
            raise NotFound(
                f"job {record.id[:200]!r} has no kept output {name[:200]!r}",
                hint=_why_not(record, kept),
                details={"status": record.phase, "kept": kept},
            )
        return record, found

    async def open(
        self, record: JobRecord, output: OutputRecord, first: int = 0, last: int | None = None
    ) -> KeptFile:
        """Open a kept output, or a part of it; close it.

        Raises:
            NotFound: it is not kept any more.
        """
        state = await self._ledger.opened()
        file = await state.kept.open(record.uid, output.name, first, last) if state else None
        if file is None:
            raise NotFound(f"{output.name} is not kept any more", hint="OUTPUT_RETENTION_S is over")
        return file

    async def archive(self, job_id: str) -> list[ZipEntry]:
        """Give the kept outputs of a job, to be made one file.

        Raises:
            NotFound: there are none.
        """
        record = await self.record(job_id)
        state = await self._ledger.opened()
        kept = [one for one in record.outputs if one.kept]
        if state is None or not kept:
            raise NotFound(
                f"job {record.id[:200]!r} has no kept outputs", details={"status": record.phase}
            )
        return [
            ZipEntry(
                one.name,
                one.bytes,
                record.finished or record.created,
                partial(_opened, state.kept.open_now, record.uid, one.name),
            )
            for one in kept
        ]

    # -- its events and its end -------------------------------------------------------------------

    async def events(self, job_id: str, after: int) -> AsyncIterator[LoggedEvent]:
        """Give a job's events from `after` on until it is over.

        Raises:
            NotFound: it is not known here.
        """
        job = await self._here(job_id)
        if job is None:
            async for logged in self._ledger.events(await self.record(job_id), after):
                yield logged
            return
        oldest = job.events[0].seq if job.events else 0
        if after + 1 < oldest:  # memory has let go of some: the disk may have them
            for logged in await self._ledger.logged(job.uid, after):
                if logged.seq < oldest:
                    after = logged.seq
                    yield logged
        async with contextlib.aclosing(job.follow(after)) as following:
            async for event in following:
                yield LoggedEvent(event.seq, event.type, event.data)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Stop a job, wherever it is.

        Returns:
            `{"id", "status", "cancelled"}`; `cancelled` tells whether it was not over yet.

        Raises:
            NotFound: it is not known here.
        """
        if self._cancel(job_id):
            return {"id": job_id, "status": "cancelled", "cancelled": True}
        record = await self.record(job_id)
        if record.final:
            return {"id": job_id, "status": record.phase, "cancelled": False}
        await self._ledger.ask_to_cancel(record)
        return {"id": job_id, "status": record.phase, "cancelled": True}


def record_public(record: JobRecord) -> dict[str, Any]:
    """Give what `GET /jobs/{id}` answers of a job that is known from its record."""
    return {
        "id": record.id,
        "status": record.phase,
        "created_at": round(record.created, 3),
        "finished_at": record.finished and round(record.finished, 3),
        "progress": None,
        "outputs": [
            _with_href(record.id, {**one.facts, **({"name": one.name} if one.kept else {})})
            for one in record.outputs
        ],
        "stats": record.stats or None,
        "error": record.error,
        "redelivery": record.redelivery,
        "webhooks": record.webhooks or None,
        "stage_s": {},
        "adapter": record.adapter,
        "instance": record.worker or record.instance,
        "position": None,
    }


def _why_not(record: JobRecord, kept: Sequence[str]) -> str:
    """Say why an output of that name cannot be had."""
    if not record.final:
        return "the job is not over"
    if not kept:
        return "outputs that were answered or uploaded are not kept"
    names = ", ".join(repr(name[:200]) for name in kept[:_NAMED])
    more = f" and {len(kept) - _NAMED} more, which `details.kept` has" * (len(kept) > _NAMED)
    return f"those that are kept are called {names}{more}"


def _with_href(job_id: str, output: dict[str, Any]) -> dict[str, Any]:
    if "name" not in output:
        return output
    href = f"/jobs/{quote(job_id, safe='')}/outputs/{quote(output['name'], safe='')}"
    return {**output, "href": href}


def _opened(open_now: Callable[[str, str], Any], uid: str, name: str) -> Any:
    file = open_now(uid, name)
    if file is None:
        raise OSError(f"{name} is not kept any more")
    return file
