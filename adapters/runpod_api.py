"""RunPod's request API for local work: what production answers, from the worker of this machine.

A client needs another base URL and nothing else: `runpod.endpoint_url_base = ".../v2"`. Jobs run
as `adapters.runpod_worker` runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from adapters.asgi import health_answer
from adapters.asgi_json import Json
from adapters.runpod_api_files import JobFiles
from adapters.runpod_api_hooks import Hooks
from adapters.runpod_api_jobs import JobQueue
from adapters.runpod_api_records import PRODUCTION, QueuedJob, Terms
from adapters.runpod_api_work import LocalWork
from adapters.serving import Platform
from handler.errors import InvalidPayload, PayloadTooLarge
from handler.health import Health
from handler.outbox.sending import Sender
from handler.transfer.operator import caller_policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from adapters.asgi_body import JsonBodies
    from handler.engine.boot import Site
    from handler.service import Handler
    from handler.settings import Settings

    Answering = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("comfyfn.runpod")
PREFIX = "/v2/{endpoint}"
DEFAULT_WAIT_MS = 90_000
WAITS_MS = (1_000, 300_000)
LOOK_S = 0.1
_DOWN = (Health.DRAINING, Health.STOPPED)


def runpod_platform(settings: Settings, terms: Terms = PRODUCTION) -> Platform:
    """Give what the HTTP server needs to serve RunPod's API beside its own.

    Args:
        terms: RunPod's figures.
    """
    sites: list[Site] = []
    made: list[RunPodApi] = []

    def routes(handler: Handler, bodies: JsonBodies) -> list[BaseRoute]:
        made.append(RunPodApi(handler, bodies, settings, sites[-1], terms))
        return made[-1].table()

    async def beside(_handler: Handler) -> None:
        await made[-1].work()

    return Platform(embedded_allowed=True, routes=routes, beside=beside, sited=sites.append)


class RunPodApi:
    """The API over one handler: its routes, one method each, and `work` beside them."""

    def __init__(
        self,
        handler: Handler,
        bodies: JsonBodies,
        settings: Settings,
        site: Site,
        terms: Terms = PRODUCTION,
    ) -> None:
        self._handler, self._bodies, self._terms = handler, bodies, terms
        self._hooks = Hooks(Sender(caller_policy(settings), timeout_s=settings.webhook_timeout_s))
        self._work = LocalWork(handler, settings, site, self._stopping)
        self._files = JobFiles(settings.state_folder / "runpod")
        self._queue = JobQueue(
            self._files,
            self._work.take,
            most=settings.runpod_concurrency or settings.engine_prefetch,
            stopping=self._stopping,
            tell=self._tell,
            terms=terms,
        )
        self._restored = asyncio.Event()

    def table(self) -> list[BaseRoute]:
        """Give the routes, plain and under `/v2/<endpoint>`."""
        table: list[tuple[str, str, Answering]] = [
            ("/run", "POST", self.run),
            ("/runsync", "POST", self.runsync),
            ("/status/{id}", "GET", self.status),
            ("/status/{id}", "POST", self.status),
            ("/stream/{id}", "GET", self.stream),
            ("/stream/{id}", "POST", self.stream),
            ("/cancel/{id}", "POST", self.cancel),
            ("/retry/{id}", "POST", self.retry),
            ("/purge-queue", "POST", self.purge),
        ]
        plain = [Route(path, call, methods=[method]) for path, method, call in table]
        named = [Route(PREFIX + path, call, methods=[method]) for path, method, call in table]
        # RunPod's client asks below the endpoint; probes of this server ask for the plain one.
        health = [Route(PREFIX + "/health", self.health), Route("/health", self.both_healths)]
        return [*plain, *named, *health]

    async def work(self) -> None:
        """Hand jobs out from when the worker is ready."""
        try:
            try:
                await asyncio.to_thread(self._files.open)
                await self._queue.restore()
            finally:
                self._restored.set()
            while self._handler.health().health is Health.STARTING:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(LOOK_S)
            self._queue.open()
            await asyncio.Event().wait()
        finally:
            await self._queue.close()
            self._work.leave()
            await self._hooks.close()
            self._files.close()

    def _stopping(self) -> bool:
        return self._handler.health().health in _DOWN

    def _tell(self, job: QueuedJob) -> None:
        async def end() -> tuple[str, bytes]:
            request, told = await self._queue.request(job), await self._queue.status(job)
            await self._queue.drop_request(job)
            return str(request["webhook"]), told

        self._hooks.tell(job.id, end)

    # -- jobs -----------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """Take a job."""
        job = await self._take(request, self._terms.run_bytes, sync=False)
        return Json({"id": job.id, "status": "IN_QUEUE"})

    async def runsync(self, request: Request) -> Response:
        """Take a job and wait for it a while."""
        wait_s = _wait_ms(request.query_params.get("wait")) / 1000
        job = await self._take(request, self._terms.sync_bytes, sync=True)
        deadline = asyncio.get_running_loop().time() + wait_s
        while not job.status.final and not self._given_up(job):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.over.wait(), min(left, 1.0))
        return await self._told(job)

    def _given_up(self, job: QueuedJob) -> bool:
        """Tell whether a job waits for the next server."""
        return self._stopping() and (job.task is None or job.task.done())

    async def _take(self, request: Request, most: int, *, sync: bool) -> QueuedJob:
        await self._restored.wait()
        try:
            body = await self._bodies.read(request, most)
        except PayloadTooLarge as fault:
            fault.hint = "RunPod takes 10 MB by /run and 20 MB by /runsync: send media by URL"
            raise
        if not isinstance(body, dict):
            raise InvalidPayload('the body must be a JSON object: {"input": {...}}')
        webhook = body.get("webhook")
        if webhook:
            if not isinstance(webhook, str):
                raise InvalidPayload("webhook: a URL", location="webhook")
            await self._hooks.check(webhook)
        return await self._queue.add(body, sync=sync)

    async def _found(self, request: Request) -> QueuedJob:
        await self._restored.wait()
        return self._queue.find(request.path_params["id"])

    async def status(self, request: Request) -> Response:
        """Tell how a job is, with its result when it is over."""
        return await self._told(await self._found(request))

    async def _told(self, job: QueuedJob) -> Response:
        return Response(await self._queue.status(job), media_type="application/json")

    async def stream(self, request: Request) -> Response:
        """Give what the worker yielded since somebody asked."""
        job = await self._found(request)
        chunks = [{"output": chunk} for chunk in job.chunks]
        job.chunks.clear()
        return Json({"id": job.id, "status": job.status.value, "stream": chunks})

    async def cancel(self, request: Request) -> Response:
        """Stop a job."""
        job = await self._found(request)
        await self._queue.cancel(job)
        return Json({"id": job.id, "status": job.status.value})

    async def retry(self, request: Request) -> Response:
        """Try a job again that failed."""
        job = await self._found(request)
        await self._queue.retry(job)
        return Json({"id": job.id, "status": "IN_QUEUE"})

    async def purge(self, _request: Request) -> Response:
        """Drop what waits."""
        return Json({"removed": await self._queue.purge(), "status": "completed"})

    # -- health ---------------------------------------------------------------------------------

    async def health(self, _request: Request) -> Response:
        """Tell of the queue and its worker as RunPod does."""
        return Json(self._health())

    async def both_healths(self, _request: Request) -> Response:
        """Tell of both: RunPod's keys beside those of this server, with its status."""
        body, status = health_answer(self._handler.health())
        told = self._health()
        jobs = {**body["jobs"], **told["jobs"]}
        return Json({**body, "jobs": jobs, "workers": told["workers"]}, status_code=status)

    def _health(self) -> dict[str, Any]:
        jobs = self._queue.counts()
        report = self._handler.health()
        starting = report.health in (Health.STARTING, Health.RECOVERING)
        sound = report.alive and not starting and report.health not in _DOWN
        busy = sound and jobs["inProgress"] > 0
        workers = {
            "idle": int(sound and not busy),
            "initializing": int(starting),
            "ready": int(sound),
            "running": int(busy),
            "throttled": 0,
            "unhealthy": int(not report.alive),
        }
        return {"jobs": jobs, "workers": workers}


def _wait_ms(text: str | None) -> int:
    """Read `?wait=`; what is beyond RunPod's bounds is brought within them.

    Raises:
        InvalidPayload: it is no number.
    """
    if text is None:
        return DEFAULT_WAIT_MS
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidPayload("wait: milliseconds, 1000 to 300000", location="query.wait")
    return min(max(int(text), WAITS_MS[0]), WAITS_MS[1])
