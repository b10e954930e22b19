"""The route that brings kept outputs to a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.asgi_json import Json
from adapters.asgi_paths import JobRoute, job_path

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from adapters.asgi_body import JsonBodies
    from handler.service import Handler

MOST_BODY_BYTES = 1 << 20


def redeliver_routes(handler: Handler, bodies: JsonBodies) -> list[BaseRoute]:
    """List the routes."""

    async def redeliver(request: Request) -> Response:
        """Bring the kept outputs of a job to where the body says."""
        payload = await bodies.read(request, MOST_BODY_BYTES)
        done = await handler.redelivery.redeliver(request.path_params["id"], payload)
        if not done.accepted:
            return Json(done.body)
        headers = {"Location": job_path(done.body["id"])}
        return Json(done.body, status_code=202, headers=headers)

    return [JobRoute("/jobs/{id:any_text}/redeliver", redeliver, methods=["POST"])]
