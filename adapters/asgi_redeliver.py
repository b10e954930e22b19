"""The route that brings kept outputs to a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route

from adapters.asgi_json import Json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from adapters.asgi_body import JsonBodies
    from handler.service import Handler

MOST_BODY_BYTES = 1 << 20


def redeliver_routes(handler: Handler, bodies: JsonBodies) -> list[BaseRoute]:
    """List the routes."""

    async def redeliver(request: Request) -> Response:
        """Bring the kept outputs of a job to where the body says."""
        payload = await bodies.read(request, MOST_BODY_BYTES)
        done = await handler.redelivery.redeliver(request.path_params["id"], payload)
        return Json(done.body, status_code=202 if done.accepted else 200)

    return [Route("/jobs/{id:any_text}/redeliver", redeliver, methods=["POST"])]
