"""`GET /ping`: how RunPod's load-balancing endpoints find out which workers take requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from adapters.asgi_json import Json
from handler.health import Health
from handler.version import VERSION

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from handler.service import Handler

# "Initialising": nothing is sent here for now, and the worker stays.
_FOR_NOW = frozenset({Health.STARTING, Health.RECOVERING, Health.OVERLOADED})


def ping_routes(handler: Handler) -> list[BaseRoute]:
    """Give the route: 200 ready, 204 not yet, 503 where no request should come any more."""

    async def ping(_request: Request) -> Response:
        report = handler.health()
        if report.health in _FOR_NOW:
            return Response(status_code=204)
        body = {
            "version": VERSION,
            "status": "ready" if report.ready else "not ready",
            "phase": report.health.value,
            "reason": report.reason,
        }
        return Json(body, status_code=200 if report.ready else 503)

    return [Route("/ping", ping, methods=["GET"])]
