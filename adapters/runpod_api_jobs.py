"""The queue of the request API: jobs wait, are taken, end, and are forgotten, as on RunPod."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from adapters.runpod_api_records import PRODUCTION, QueuedJob, Status, Terms
from handler.errors import InternalFault, InvalidPayload, NotFound

if TYPE_CHECKING:
    from adapters.runpod_api_files import JobFiles

log = logging.getLogger("comfyfn.runpod")
# A job that ends with the server goes on with the next one.
_UNFINISHED = frozenset({"draining", "cancelled", "not_ready", None})
_TRIED_AGAIN = (Status.FAILED, Status.TIMED_OUT)


Work = Callable[[QueuedJob, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Runs a job as it is handed to a worker, and gives what is posted of it: `output`, `error`."""


class JobQueue:
    """Hands jobs to the one worker there is.

    Args:
        work: the worker's; its cancellation stops the job.
        most: jobs that it has at once.
        stopping: whether the worker is on its way down: what it gives back then is no end.
        tell: told of jobs that are over and have a webhook.
    """

    def __init__(
        self,
        files: JobFiles,
        work: Work,
        *,
        most: int = 1,
        stopping: Callable[[], bool] = lambda: False,
        tell: Callable[[QueuedJob], None] = lambda _: None,
        terms: Terms = PRODUCTION,
    ) -> None:
        self._files = files
        self._work = work
        self._most = most
        self._stopping = stopping
        self._tell = tell
        self._terms = terms
        self._jobs: dict[str, QueuedJob] = {}
        self._open = False
        self._ends: collections.Counter[Status] = collections.Counter()
        self.retried = 0

    def __repr__(self) -> str:
        return f"<JobQueue {self.counts()}>"

    # -- life -----------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Go on with what an earlier server has left."""
        left = await asyncio.to_thread(lambda: list(self._files.left()))
        for job_id, facts in sorted(left, key=lambda one: one[1].get("created", 0)):
            try:
                job = QueuedJob.of(job_id, facts)
            except (KeyError, TypeError, ValueError):
                await asyncio.to_thread(self._files.remove, job_id)
                continue
            self._jobs[job_id] = job
            if job.status.final:
                job.over.set()
                self._arm(job, job.ended or 0, self._kept_s(job), self._forget)
                continue
            if job.status is Status.IN_PROGRESS:
                self.retried += 1
            job.status, job.taken = Status.IN_QUEUE, None
            self._arm(job, job.created, job.ttl_s, self._expire)

    def open(self) -> None:
        """The worker is ready: hand jobs out."""
        self._open = True
        self._pump()

    async def close(self) -> None:
        """Hand none out any more; those in progress are stopped and wait for the next server."""
        self._open = False
        tasks = []
        for job in self._jobs.values():
            if job.timer is not None:
                job.timer.cancel()
            if job.task is not None:
                tasks.append(job.task)
                if not (job.status.final or job.ending):
                    job.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what callers ask for -------------------------------------------------------------------

    async def add(self, request: dict[str, Any], *, sync: bool) -> QueuedJob:
        """Take a request: `{"input", "policy", "webhook", "s3Config"}`.

        Raises:
            InvalidPayload: there is no input, or a policy that cannot be.
            StateUnavailable: it cannot be kept.
        """
        if request.get("input") is None:
            raise InvalidPayload("input: is required", location="input")
        execution_s, ttl_s = self._policy(request.get("policy"))
        job_id = f"{'sync-' if sync else ''}{uuid.uuid4()}-u1"
        job = QueuedJob(
            job_id,
            sync=sync,
            created=time.time(),
            ttl_s=ttl_s or self._terms.ttl_s,
            execution_s=execution_s,
            hooked=bool(request.get("webhook")),
        )
        await asyncio.to_thread(self._files.take, job_id, job.facts(), request)
        self._jobs[job_id] = job
        self._arm(job, job.created, job.ttl_s, self._expire)
        self._pump()
        return job

    def find(self, job_id: str) -> QueuedJob:
        """Give a job.

        Raises:
            NotFound: there is none of that id, or its time is over.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"there is no job {job_id[:200]!r}",
                hint="a result of /run is kept for 30 minutes, one of /runsync for 1 minute",
            )
        return job

    async def status(self, job: QueuedJob) -> bytes:
        """Give what /status answers, as JSON."""
        told = orjson.dumps(job.told(), option=orjson.OPT_NON_STR_KEYS)
        if not job.status.final:
            return told
        result = await asyncio.to_thread(self._files.result, job.id)
        return told if result == b"{}" else told[:-1] + b"," + result[1:]

    async def request(self, job: QueuedJob) -> dict[str, Any]:
        """Give what was asked for."""
        return await asyncio.to_thread(self._files.request, job.id)

    async def drop_request(self, job: QueuedJob) -> None:
        """Forget what was asked for, once no try can need it: it may have secrets in it."""
        if job.status not in _TRIED_AGAIN:
            await self._kept(job, partial(self._files.drop_request, job.id))

    async def cancel(self, job: QueuedJob) -> None:
        """Stop a job; one that is over stays as it is."""
        await self._end(job, Status.CANCELLED, {})
        await job.over.wait()

    async def retry(self, job: QueuedJob) -> None:
        """Put a job that failed into the queue again, without what came of it.

        Raises:
            InvalidPayload: it did not fail.
        """
        if job.ending or job.status not in _TRIED_AGAIN:
            raise InvalidPayload(
                f"the job is {job.status.value}",
                location="id",
                hint="what is FAILED or TIMED_OUT can be tried again",
            )
        job.ending = True  # of two at once the first does it
        try:
            await asyncio.to_thread(self._files.drop_result, job.id)
        finally:
            job.ending = False
        job.status, job.taken, job.ended, job.progress = Status.IN_QUEUE, None, None, None
        job.created = time.time()
        job.retries += 1
        job.chunks.clear()
        job.over.clear()
        self.retried += 1
        self._arm(job, job.created, job.ttl_s, self._expire)
        await self._note(job)
        self._pump()

    async def purge(self) -> int:
        """Take all that wait out of the queue; tell how many."""
        waiting = self._in(Status.IN_QUEUE)
        # All at once: while one is noted, the place of another could be taken.
        await asyncio.gather(*(self._end(job, Status.CANCELLED, {}) for job in waiting))
        return len(waiting)

    def counts(self) -> dict[str, int]:
        """Count jobs as /health does."""
        return {
            "completed": self._ends[Status.COMPLETED],
            "failed": self._ends[Status.FAILED] + self._ends[Status.TIMED_OUT],
            "inProgress": len(self._in(Status.IN_PROGRESS)),
            "inQueue": len(self._in(Status.IN_QUEUE)),
            "retried": self.retried,
        }

    # -- how a job goes -------------------------------------------------------------------------

    def _in(self, status: Status) -> list[QueuedJob]:
        return [job for job in self._jobs.values() if job.status is status]

    def _pump(self) -> None:
        """Hand out as many as the worker takes."""
        taking = self._open and not self._stopping()
        room = self._most - len(self._in(Status.IN_PROGRESS)) if taking else 0
        waiting = [job for job in self._in(Status.IN_QUEUE) if not job.ending]
        for job in waiting[: max(room, 0)]:
            job.status, job.taken = Status.IN_PROGRESS, time.time()
            job.task = asyncio.create_task(self._run(job), name=f"runpod-{job.id}")

    async def _run(self, job: QueuedJob) -> None:
        try:
            await self._note(job)
            request = await asyncio.to_thread(self._files.request, job.id)
            async with asyncio.timeout(job.execution_s or None):
                result = await self._work(job, {**request, "id": job.id})
        except asyncio.CancelledError:
            return  # by `_end`, or by `close`: then it waits for the next server
        except TimeoutError:
            told = f"the job ran longer than {job.execution_s:g} s (policy.executionTimeout)"
            await self._end(job, Status.TIMED_OUT, {"error": told})
            return
        except Exception as error:
            log.exception("job %s: a fault of ours", job.id)
            result = {"error": InternalFault.of(error).message}
        if result.get("error") and self._stopping() and _code(result) in _UNFINISHED:
            log.info("job %s goes on with the next server", job.id)
            return
        status = Status.FAILED if result.get("error") else Status.COMPLETED
        await self._end(job, status, result)

    async def _end(self, job: QueuedJob, status: Status, result: dict[str, Any]) -> None:
        if job.status.final or job.ending:
            return
        job.ending, ended = True, time.time()
        if job.task is not None and job.task is not asyncio.current_task():
            job.task.cancel()
        if result:  # before anybody sees that it is over
            await self._kept(job, partial(self._files.keep, job.id, result))
        job.status, job.ended, job.ending = status, ended, False
        self._ends[status] += 1
        log.info("job %s: %s", job.id, status.value)
        self._arm(job, ended, self._kept_s(job), self._forget)
        await self._note(job)
        if not job.hooked:  # else it says whom to tell
            await self.drop_request(job)
        job.over.set()
        if job.hooked:
            self._tell(job)
        self._pump()

    async def _note(self, job: QueuedJob) -> None:
        await self._kept(job, partial(self._files.note, job.id, job.facts))

    async def _kept(self, job: QueuedJob, write: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(write)
        except OSError as fault:
            log.warning("job %s: it cannot be kept: %s", job.id, fault)

    def _expire(self, job: QueuedJob) -> None:
        told = {"error": f"the job was not over within {job.ttl_s:g} s (policy.ttl)"}
        job.timer = None
        ending = asyncio.ensure_future(self._end(job, Status.TIMED_OUT, told))
        ending.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _forget(self, job: QueuedJob) -> None:
        self._jobs.pop(job.id, None)
        asyncio.get_running_loop().run_in_executor(None, self._files.remove, job.id)

    def _kept_s(self, job: QueuedJob) -> float:
        return self._terms.kept_sync_s if job.sync else self._terms.kept_s

    def _arm(
        self, job: QueuedJob, since: float, limit_s: float, then: Callable[[QueuedJob], None]
    ) -> None:
        """Call something when a time is over, in place of what was to be called before."""
        if job.timer is not None:
            job.timer.cancel()
        left = max(0.0, since + limit_s - time.time())
        job.timer = asyncio.get_running_loop().call_later(left, then, job)

    def _policy(self, policy: Any) -> tuple[float, float]:
        """Read executionTimeout and ttl, in seconds; 0 for what is not told.

        Raises:
            InvalidPayload: RunPod would not take it.
        """
        if policy is None:
            return 0.0, 0.0
        if not isinstance(policy, dict):
            raise InvalidPayload("policy: an object", location="policy")
        least = {"executionTimeout": self._terms.least_execution_s, "ttl": self._terms.least_ttl_s}
        found = []
        for name, low_s in least.items():
            value = policy.get(name)
            if value is None:
                found.append(0.0)
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low_s <= value / 1000 <= self._terms.most_s:
                raise InvalidPayload(
                    f"policy.{name}: {low_s * 1000:g} to {self._terms.most_s * 1000:g} ms",
                    location=f"policy.{name}",
                )
            found.append(value / 1000)
        return found[0], found[1]


def _code(result: dict[str, Any]) -> str | None:
    """Give the code of an error; None where it is not told: a stream's end has a text alone."""
    envelope = result.get("output")
    return envelope.get("code") if isinstance(envelope, dict) else None
