"""HTTP routes over a Handler: comfyui-api's contract, for uvicorn and every ASGI platform."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from adapters.asgi_answer import AnswerResponse, accepted_form
from adapters.asgi_body import JsonBodies
from adapters.asgi_docs import docs_routes
from adapters.asgi_json import Json
from adapters.asgi_metrics import metrics_routes
from adapters.asgi_models import model_routes
from adapters.asgi_origin import OwnOriginOnly, is_loopback
from handler.errors import (
    HandlerError,
    InternalFault,
    InvalidPayload,
    JobCancelled,
    MethodNotAllowed,
    NotFound,
)
from handler.health import Health
from handler.payload import parse_payload
from handler.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from starlette.requests import Request

    from handler.job import Job, JobEvent
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.http")
KEEPALIVE_S = 15.0
LONGEST_EVENT_ID = 18  # digits; no job tells so much, and Python refuses to read thousands


class AnyText(Convertor[str]):
    """A part of a path that may hold anything: an id is any text, line breaks included."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """Give it as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Give it as it is."""
        return value


register_url_convertor("any_text", AnyText())


def make_app(handler: Handler, settings: Settings, scratch: Path | None = None) -> Starlette:
    """Make the ASGI application of a handler, for one event loop.

    Args:
        scratch: folder for large bodies; the system's temporary one by default.
    """
    routes = Routes(handler, settings, scratch)
    allowed = [name.strip() for name in settings.allow_origins.split(",") if name.strip()]
    return Starlette(
        middleware=[
            Middleware(OwnOriginOnly, allowed=allowed, loopback=is_loopback(settings.host))
        ],
        routes=routes.table(),
        exception_handlers={
            HandlerError: error_answer,
            HTTPException: error_answer,
            Exception: error_answer,
        },
    )


async def error_answer(request: Request, error: Exception) -> Response:
    """Turn any exception into the one error envelope."""
    fault = _as_ours(request, error)
    headers = {}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(fault.retry_after_s)))
    return Json(fault.envelope(), status_code=fault.status, headers=headers)


def _as_ours(request: Request, error: Exception) -> HandlerError:
    if isinstance(error, HandlerError):
        return error
    method, path = request.method, request.url.path
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return MethodNotAllowed(f"{method} is not for {path}")
        if error.status_code == 404:
            return NotFound(f"Route {method}:{path} not found", hint="/docs lists the routes")
        return InvalidPayload(error.detail)
    log.error("%s %s: a fault of ours", method, path, exc_info=error)
    return InternalFault(f"internal fault: {type(error).__name__}", hint="see the log")


class Routes:
    """The routes, one method each."""

    def __init__(self, handler: Handler, settings: Settings, scratch: Path | None = None) -> None:
        self._handler = handler
        self._settings = settings
        self._bodies = JsonBodies(scratch)

    def table(self) -> list[BaseRoute]:
        """List the routes."""
        return [
            Route("/prompt", self.prompt, methods=["POST"]),
            Route("/interrupt", self.interrupt, methods=["POST"]),
            Route("/jobs/{id:any_text}/events", self.job_events, methods=["GET"]),
            Route("/jobs/{id:any_text}", self.job, methods=["GET"]),
            *model_routes(self._handler, self._bodies),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/health/startup", self.health_startup, methods=["GET"]),
            Route("/health/live", self.health_live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            *metrics_routes(self._handler),
            *docs_routes(),
        ]

    async def prompt(self, request: Request) -> Response:
        """Run a graph and answer with its outputs; the client going away cancels it."""
        body = await self._bodies.read(request, self._settings.max_body_mb << 20)
        form = accepted_form(request.headers.get("accept", ""))
        job = self._handler.submit(parse_payload(body))
        del body  # may be most of our memory
        answer = await self._unless_gone(request, self._handler.result(job))
        return AnswerResponse(answer, form)

    async def _unless_gone(self, request: Request, work: Awaitable[Any]) -> Any:
        result = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise JobCancelled("the client went away")
        finally:
            gone.cancel()
            if not result.done():
                result.cancel()

    async def interrupt(self, request: Request) -> Response:
        """Stop the job of an id, wherever it is."""
        body = await self._bodies.read(request, 1 << 20)
        job_id = body.get("id") if isinstance(body, dict) else None
        if not isinstance(job_id, str) or not job_id:
            raise InvalidPayload("id: a text is required", location="id")
        found = self._handler.cancel(job_id)
        if found:
            return Json({"id": job_id, "interrupted": "success"})
        why = "no unfinished job has this id"
        return Json({"id": job_id, "interrupted": "failed", "error": why}, status_code=404)

    async def job(self, request: Request) -> Response:
        """Tell how a job is."""
        job = self._find(request)
        return Json({**job.public(), "position": self._handler.position(job)})

    async def job_events(self, request: Request) -> Response:
        """Stream a job's events (SSE); `Last-Event-ID` resumes."""
        job = self._find(request)
        after = _event_id(request.headers.get("last-event-id", ""))
        if request.query_params.get("previews", "").lower() in {"1", "true"}:
            job.wants_previews = True
        return StreamingResponse(
            _sse(job, after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    def _find(self, request: Request) -> Job:
        job_id = request.path_params["id"]
        job = self._handler.find(job_id)
        if job is None:
            raise NotFound(
                f"no job {job_id!r} is known here",
                hint="finished jobs are kept for JOB_RETENTION_S, in this worker's memory only",
            )
        return job

    # -- probes ---------------------------------------------------------------------------------

    async def health(self, _request: Request) -> Response:
        """200 while the worker works or can get there by itself, 500 when it cannot."""
        report = self._handler.health()
        body = {
            "version": VERSION,
            "status": "healthy" if report.alive else "not healthy",
            "phase": report.health.value,
            "reason": report.reason,
            "engine": report.engine,
            "jobs": {"waiting": report.waiting, "running": report.running},
            "boot": report.boot,
        }
        return Json(body, status_code=200 if report.alive else 500)

    async def ready(self, _request: Request) -> Response:
        """200 when a job may be sent here, else 503 with the reason."""
        report = self._handler.health()
        return self._probe(ok=report.ready, word="ready")

    async def health_startup(self, _request: Request) -> Response:
        """503 until boot and warmup have ended, then 200 for ever."""
        return self._probe(ok=self._handler.health().started, word="started")

    async def health_live(self, _request: Request) -> Response:
        """503 only when the worker cannot get well by itself."""
        report = self._handler.health()
        return self._probe(ok=report.alive and report.health is not Health.STOPPED, word="live")

    def _probe(self, *, ok: bool, word: str) -> Response:
        report = self._handler.health()
        body = {
            "version": VERSION,
            "status": word if ok else f"not {word}",
            "phase": report.health.value,
            "reason": report.reason,
        }
        return Json(body, status_code=200 if ok else 503)


def _event_id(text: str) -> int:
    """Read a `Last-Event-ID`; what is none of ours resumes nothing."""
    return int(text) if text.isdecimal() and len(text) <= LONGEST_EVENT_ID else 0


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sse(job: Job, after: int, keepalive_s: float = KEEPALIVE_S) -> AsyncIterator[bytes]:
    """Frame events; a comment in every silence keeps proxies from closing."""
    events = job.follow(after)
    pending: asyncio.Task[JobEvent] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=keepalive_s)
            if not done:
                yield b": still here\n\n"
                continue
            event = pending.result()
            pending = None
            data = orjson.dumps(event.data, option=orjson.OPT_NON_STR_KEYS)
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), data)
    except StopAsyncIteration:
        return
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        await events.aclose()
