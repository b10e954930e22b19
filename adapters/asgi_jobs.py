"""The routes of jobs: how they are, what they tell, what they gave, and their end."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from adapters.asgi_answer import AnswerResponse, accepted_form
from adapters.asgi_events import event_id, sse
from adapters.asgi_json import Json
from adapters.asgi_outputs import OutputRoutes
from adapters.asgi_paths import JobRoute
from adapters.asgi_streams import Streamed, unless_gone
from handler.errors import InvalidPayload, NotFound, QueueFull
from handler.job import Phase
from handler.stored_jobs import LONGEST_PAGE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

    from adapters.asgi_body import JsonBodies
    from handler.service import Handler

MOST_BODY_BYTES = 1 << 20
PAGE = 50
MOST_FOLLOWERS = 500
STATUSES = ("active", "over", *(phase.value for phase in Phase))
_ADAPTER = re.compile(r"[\w.-]{1,64}", re.ASCII)


def job_routes(
    handler: Handler, bodies: JsonBodies, most_followers: int = MOST_FOLLOWERS
) -> list[BaseRoute]:
    """List the routes.

    Args:
        most_followers: event streams at once.
    """
    routes, outputs = JobRoutes(handler, bodies, most_followers), OutputRoutes(handler)
    job = "/jobs/{id:any_text}"
    return [
        Route("/interrupt", routes.interrupt, methods=["POST"]),
        Route("/jobs", routes.listing, methods=["GET"]),
        JobRoute(f"{job}/outputs/{{name}}", outputs.output, methods=["GET"]),
        JobRoute(f"{job}/archive", outputs.archive, methods=["GET"]),
        JobRoute(f"{job}/events", routes.events, methods=["GET"]),
        JobRoute(f"{job}/result", routes.result, methods=["GET"]),
        JobRoute(f"{job}/cancel", routes.cancel, methods=["POST"]),
        JobRoute(job, routes.job, methods=["GET"]),
    ]


class JobRoutes:
    """The routes, one method each."""

    def __init__(self, handler: Handler, bodies: JsonBodies, most_followers: int) -> None:
        self._handler = handler
        self._stored = handler.stored
        self._bodies = bodies
        self._most_followers = most_followers
        self._following = 0

    async def listing(self, request: Request) -> Response:
        """List jobs, the newest first, page by page."""
        query = request.query_params
        status, adapter = query.get("status"), query.get("adapter")
        if status is not None and status not in STATUSES:
            raise InvalidPayload(f"status: one of {', '.join(STATUSES)}", location="status")
        if adapter is not None and not _ADAPTER.fullmatch(adapter):
            raise InvalidPayload("adapter: a name like http", location="adapter")
        limit = _limit(query)
        return Json(await self._stored.page(status, adapter, query.get("after"), limit))

    async def job(self, request: Request) -> Response:
        """Tell how a job is."""
        return Json(await self._stored.public(request.path_params["id"]))

    async def events(self, request: Request) -> Response:
        """Stream a job's events (SSE); `Last-Event-ID` resumes."""
        job_id, query = request.path_params["id"], request.query_params
        known = await self._stored.public(job_id)  # before the stream begins: 404 is told as such
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        if self._following >= self._most_followers:
            raise QueueFull(
                f"{self._most_followers} event streams are open on this worker",
                hint="GET /jobs/{id} tells how a job is, too",
                retry_after_s=5,
            )
        if query.get("previews", "").lower() in {"1", "true"}:
            job = self._handler.find(job_id)
            if job is not None:
                job.wants_previews = True
        # A browser that comes again sends the header, and the query as it was at first.
        after = event_id(request.headers.get("last-event-id") or query.get("after", ""))
        events, first = self._stored.events(job_id, after), None
        if Phase(known["status"]).final:
            first = await anext(events, None)
            if first is None:  # 200 would have a browser come again and again
                return Response(status_code=204)
        return Streamed(self._counted(sse(events, first)), headers=headers)

    async def _counted(self, blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Count a stream while it is open: each costs the worker a little with every event."""
        self._following += 1
        try:
            async with contextlib.aclosing(blocks):
                async for block in blocks:
                    yield block
        finally:
            self._following -= 1

    async def result(self, request: Request) -> Response:
        """Give a job's answer in the form that is accepted; 202 while there is none."""
        job_id = request.path_params["id"]
        form = accepted_form(request.headers.get("accept", ""))
        answer = await unless_gone(request, self._stored.result(job_id))
        if answer is not None:
            return AnswerResponse(answer, form)
        told = await self._stored.public(job_id)
        body = {"id": told["id"], "status": told["status"]}
        return Json(body, status_code=202, headers={"Retry-After": "1"})

    async def cancel(self, request: Request) -> Response:
        """Stop a job, wherever it is."""
        return Json(await self._stored.cancel(request.path_params["id"]))

    async def interrupt(self, request: Request) -> Response:
        """Stop the job of an id, wherever it is."""
        body = await self._bodies.read(request, MOST_BODY_BYTES)
        job_id = body.get("id") if isinstance(body, dict) else None
        if not isinstance(job_id, str) or not job_id:
            raise InvalidPayload("id: a text is required", location="id")
        if await self._stopped(job_id):
            return Json({"id": job_id, "interrupted": "success"})
        why = "no unfinished job has this id"
        told: dict[str, Any] = {"id": job_id, "interrupted": "failed", "error": why}
        return Json(told, status_code=404)

    async def _stopped(self, job_id: str) -> bool:
        try:
            return bool((await self._stored.cancel(job_id))["cancelled"])
        except NotFound:
            return False


def _limit(query: QueryParams) -> int:
    text = query.get("limit", str(PAGE))
    decimal = text.isascii() and text.isdecimal() and len(text) < 10
    if not decimal or not 1 <= int(text) <= LONGEST_PAGE:
        raise InvalidPayload(f"limit: a number from 1 to {LONGEST_PAGE}", location="limit")
    return int(text)
