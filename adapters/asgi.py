"""HTTP routes over a Handler: comfyui-api's contract, for uvicorn and every ASGI platform."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from adapters.asgi_body import JsonBodies
from adapters.asgi_docs import docs_routes
from adapters.asgi_jobs import job_routes
from adapters.asgi_json import Json, refusal
from adapters.asgi_metrics import metrics_routes
from adapters.asgi_models import model_routes
from adapters.asgi_origin import OwnOriginOnly, is_loopback
from adapters.asgi_ping import ping_routes
from adapters.asgi_prompt import PromptRoute
from adapters.asgi_redeliver import redeliver_routes
from handler.errors import (
    HandlerError,
    InternalFault,
    InvalidPayload,
    MethodNotAllowed,
    NotFound,
)
from handler.health import Health
from handler.submission import Submission
from handler.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from adapters.serving import Platform
    from handler.health import HealthReport
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.http")


def make_app(
    handler: Handler,
    settings: Settings,
    scratch: Path | None = None,
    platform: Platform | None = None,
) -> Starlette:
    """Make the ASGI application of a handler, for one event loop.

    Args:
        scratch: folder for large bodies; the system's temporary one by default.
        platform: what is asked of it beyond the API.
    """
    routes = Routes(handler, settings, scratch, platform)
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
    return refusal(_as_ours(request, error))


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


def health_answer(report: HealthReport) -> tuple[dict[str, Any], int]:
    """Give the body of `/health` and its status."""
    body = {
        "version": VERSION,
        "status": "healthy" if report.alive else "not healthy",
        "phase": report.health.value,
        "reason": report.reason,
        "engine": report.engine,
        "jobs": {"waiting": report.waiting, "running": report.running},
        "boot": report.boot,
    }
    return body, 200 if report.alive else 500


class Routes:
    """The routes, one method each."""

    def __init__(
        self,
        handler: Handler,
        settings: Settings,
        scratch: Path | None = None,
        platform: Platform | None = None,
    ) -> None:
        self._handler = handler
        self._bodies = JsonBodies(scratch)
        self._more = platform.routes if platform is not None else None
        how = Submission()
        if platform is not None:
            how = Submission(
                adapter=platform.name,
                inline_bytes=platform.inline_bytes,
                answer_within_s=platform.answer_within_s,
            )
        self._prompt = PromptRoute(handler, self._bodies, settings.max_body_mb << 20, how)

    def table(self) -> list[BaseRoute]:
        """List the routes."""
        return [
            *(self._more(self._handler, self._bodies) if self._more is not None else ()),
            Route("/prompt", self._prompt.prompt, methods=["POST"]),
            *redeliver_routes(self._handler, self._bodies),
            *job_routes(self._handler, self._bodies),
            *model_routes(self._handler, self._bodies),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/health/startup", self.health_startup, methods=["GET"]),
            Route("/health/live", self.health_live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            *ping_routes(self._handler),
            *metrics_routes(self._handler),
            *docs_routes(),
        ]

    # -- probes ---------------------------------------------------------------------------------

    async def health(self, _request: Request) -> Response:
        """200 while the worker works or can get there by itself, 500 when it cannot."""
        body, status = health_answer(self._handler.health())
        return Json(body, status_code=status)

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
