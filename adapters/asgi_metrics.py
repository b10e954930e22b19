"""The route that Prometheus scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from handler.service import Handler


def metrics_routes(handler: Handler) -> list[BaseRoute]:
    """List the routes."""

    async def metrics(request: Request) -> Response:
        """Tell the figures, in the form that the scraper accepts."""
        body, content_type = await handler.exposition(request.headers.get("accept", ""))
        # As a header: a media type given as such would get a second charset.
        return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return [Route("/metrics", metrics, methods=["GET"])]
