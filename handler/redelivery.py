"""Kept outputs brought to a storage after their job: it refused them, or nobody had named it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from handler.errors import (
    Conflict,
    Draining,
    HandlerError,
    InternalFault,
    InvalidPayload,
    QueueFull,
    ResultGone,
)
from handler.log_context import JobMark, speak_of
from handler.payload import invalid_payload, refuse_misspelt
from handler.pipeline.uploads import with_urls
from handler.records import TARGET_KINDS
from handler.stored import stored_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handler.job import JobBoard
    from handler.ledger import Ledger
    from handler.pipeline.stages import Parts
    from handler.records import Output
    from handler.state.records import JobRecord
    from handler.stored_jobs import StoredJobs
    from handler.targets import Target

log = logging.getLogger("comfyfn.delivery")
AT_ONCE = 4
MOST = 64
"""Under way and waiting."""
RETRY_AFTER_S = 5.0
_WEBHOOKS = ("webhook", "webhook_v2")
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Redelivered:
    """What the caller is told.

    Attributes:
        body: of the answer.
        accepted: it goes on in the background: a 202.
    """

    body: dict[str, Any] = field(repr=False)
    accepted: bool = False


class Redelivery:
    """Delivers what was kept of jobs that are over; what is kept stays.

    Args:
        jobs: of this process, which are told what became of it.
        at_once: re-deliveries at once; others wait.
        most: that are taken, those that wait included.
    """

    def __init__(
        self,
        parts: Parts,
        jobs: JobBoard,
        stored: StoredJobs,
        ledger: Ledger,
        *,
        at_once: int = AT_ONCE,
        most: int = MOST,
    ) -> None:
        self._parts = parts
        self._jobs = jobs
        self._stored = stored
        self._ledger = ledger
        self._gate = asyncio.Semaphore(at_once)
        self._most = most
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._draining = False

    def __repr__(self) -> str:
        return f"<Redelivery {len(self._tasks)} under way>"

    @property
    def busy(self) -> bool:
        """Whether something is being uploaded."""
        return bool(self._tasks)

    async def redeliver(self, job_id: str, payload: Any) -> Redelivered:
        """Bring the kept outputs of a job to the storages that a payload names.

        Who waits for it and leaves does not end it.

        Args:
            payload: the decoded JSON body: upload objects as `POST /prompt` takes them.

        Raises:
            InvalidPayload, UrlNotAllowed: the payload cannot be served.
            NotFound: no such job is known here.
            Conflict: it is not over.
            ResultGone: its outputs are not kept.
            UploadFailed: an output is not stored; all stay kept.
            QueueFull, Draining: none is taken now.
            StateUnavailable: what is kept cannot be seen now.
        """
        targets = parse_targets(payload)
        self._admit()
        record = await self._stored.record(job_id)
        await self._see_kept(record)
        await self._parts.providers().check(targets)
        self._admit()  # others came meanwhile
        task = asyncio.create_task(self._run(record, targets), name=f"redeliver-{record.id}")
        self._tasks.add(task)
        task.add_done_callback(self._over)
        if any(target.is_async for target in targets):
            return Redelivered({**_head(record, targets), "status": "ok"}, accepted=True)
        await asyncio.wait({task})
        if task.cancelled():
            raise Draining("the server stops", retry_after_s=1)
        return Redelivered(task.result())

    def refuse(self) -> None:
        """Take none any more."""
        self._draining = True

    async def drain(self, timeout_s: float) -> None:
        """Wait for those under way, and take none any more."""
        self.refuse()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def close(self) -> None:
        """End those under way."""
        self.refuse()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self) -> None:
        if self._draining:
            raise Draining("this worker is on its way down", retry_after_s=1)
        if len(self._tasks) >= self._most:
            raise QueueFull(
                f"{len(self._tasks)} re-deliveries are under way", retry_after_s=RETRY_AFTER_S
            )

    async def _see_kept(self, record: JobRecord) -> None:
        """Make sure that a job is over, and that there is something to be delivered."""
        if not record.final:
            raise Conflict(
                f"job {record.id[:200]!r} is not over",
                hint="follow /jobs/{id}/events, or ask /jobs/{id}",
                details={"status": record.phase},
            )
        state = await self._ledger.opened()
        for one in record.outputs:
            if one.kept and state is not None and await state.kept.has(record.uid, one.name):
                continue
            if not one.whole:
                filename = str(one.facts.get("filename") or one.name)
                raise _gone(record, f"{filename} is not kept", {"filename": filename})
        if all(one.facts.get("text") is not None for one in record.outputs):
            raise _gone(record, "it has no files", {})

    async def _run(self, record: JobRecord, targets: Sequence[Target]) -> dict[str, Any]:
        """Do one re-delivery, once it is its turn, and note what became of it."""
        speak_of(JobMark(record.id))  # in this task, which is the re-delivery's own
        noted: dict[str, Any] = {"targets": [target.kind for target in targets]}
        try:
            async with self._gate:
                begun = time.monotonic()
                outputs = await self._deliver(record, targets)
        except Exception as fault:
            error = fault if isinstance(fault, HandlerError) else InternalFault.of(fault)
            if error is not fault:
                log.exception("job %s: a fault of ours", record.id)
            log.warning("job %s: its outputs are not re-delivered: %s", record.id, error.message)
            if error is not fault:
                log.error("job %s: a fault of ours", record.id, exc_info=fault)
            await self._note(record, {**noted, "status": "failed", "error": error.envelope()})
            if error is not fault:
                raise error from fault
            raise
        log.info("job %s: %d outputs are re-delivered", record.id, len(outputs))
        files = [output for output in outputs if output.path is not None]
        images = [output.url for output in files]
        places = [output.lasting().url for output in files]
        await self._note(record, {**noted, "status": "succeeded", "images": places})
        return {
            **_head(record, targets),
            "images": images,
            "filenames": [output.filename for output in files],
            "outputs": [output.public() for output in outputs],
            "stats": {"upload_time": round((time.monotonic() - begun) * 1000, 3)},
        }

    async def _deliver(self, record: JobRecord, targets: Sequence[Target]) -> list[Output]:
        """Bring the outputs here, and from here to the targets."""
        folder = self._parts.scratch / f"redeliver-{uuid.uuid4().hex}"
        providers = self._parts.providers()
        try:
            state = await self._ledger.opened()
            outputs = await stored_outputs(record, state, folder, files=True)
            async with providers.delivery(
                targets, record.id, metrics=self._parts.metrics
            ) as delivery:
                return with_urls(outputs, await delivery.finish(outputs))
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    async def _note(self, record: JobRecord, outcome: dict[str, Any]) -> None:
        """Have `GET /jobs/{id}` tell what became of it, where it still tells of the job."""
        outcome = {**outcome, "at": round(time.time(), 3)}
        job = self._jobs.by_uid(record.uid)
        if job is not None:
            job.redelivery = outcome
        with contextlib.suppress(HandlerError, TimeoutError):  # it is in the log
            await self._ledger.flush()
            state = await self._ledger.opened()
            for _ in range(_TRIES if state is not None else 0):
                assert state is not None
                found = await state.store.read(record.id)
                if found is None or found.record.uid != record.uid:
                    return
                changed = replace(found.record, redelivery=outcome)
                if await state.store.replace(changed, found.version):
                    return

    def _over(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told already, to the log at least


def parse_targets(raw: Any) -> tuple[Target, ...]:
    """Read the upload objects of a payload.

    Raises:
        InvalidPayload: there is none, or one that does not fit the schema.
    """
    if not isinstance(raw, dict):
        raise InvalidPayload("the payload must be a JSON object with an upload object in it")
    refuse_misspelt(raw, (*TARGET_KINDS, *_WEBHOOKS, "id", "prompt"))
    for key in _WEBHOOKS:
        if raw.get(key):
            raise InvalidPayload(
                f"{key}: a re-delivery tells no webhook",
                location=key,
                hint="wait for the answer, or ask /jobs/{id} for its `redelivery`",
            )
    named = {kind: raw[kind] for kind in TARGET_KINDS if raw.get(kind) is not None}
    if not named:
        raise InvalidPayload(
            "no storage is named", hint=f"send at least one of {', '.join(TARGET_KINDS)}"
        )
    from handler.targets import Targets

    try:
        return tuple(Targets.model_validate(named).targets())
    except ValidationError as error:
        raise invalid_payload(error) from error


def _head(record: JobRecord, targets: Sequence[Target]) -> dict[str, Any]:
    return {"id": record.id, **{target.kind: target.public() for target in targets}}


def _gone(record: JobRecord, why: str, details: dict[str, Any]) -> ResultGone:
    return ResultGone(
        f"nothing of job {record.id[:200]!r} can be delivered: {why}",
        hint="outputs that were answered or uploaded are not kept, nor is any for longer than "
        "OUTPUT_RETENTION_S",
        details={**details, "status": record.phase},
    )
