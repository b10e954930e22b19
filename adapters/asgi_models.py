"""The routes of models: what is there, and what is to be fetched."""

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


def model_routes(handler: Handler, bodies: JsonBodies) -> list[BaseRoute]:
    """List the routes."""
    routes = ModelRoutes(handler, bodies)
    return [
        Route("/models", routes.models, methods=["GET"]),
        Route("/download", routes.download, methods=["POST"]),
        Route("/downloads", routes.listing, methods=["GET"]),
        Route("/downloads/{id}", routes.record, methods=["GET"]),
        Route("/downloads/{id}", routes.cancel, methods=["DELETE"]),
        Route("/downloads/{id}/cancel", routes.cancel, methods=["POST"]),
    ]


class ModelRoutes:
    """The routes, one method each."""

    def __init__(self, handler: Handler, bodies: JsonBodies) -> None:
        self._handler = handler
        self._downloads = handler.downloads
        self._bodies = bodies

    async def models(self, _request: Request) -> Response:
        """List the model files by folder."""
        return Json(await self._handler.models())

    async def download(self, request: Request) -> Response:
        """Fetch a file into a model folder; a client that goes away does not end it."""
        download = await self._downloads.begin(await self._bodies.read(request, MOST_BODY_BYTES))
        if not download.request.wait:
            return Json(download.answer(), status_code=202)
        return Json((await self._downloads.result(download)).answer())

    async def listing(self, _request: Request) -> Response:
        """List the downloads, newest first."""
        return Json({"downloads": [one.public() for one in self._downloads.known()]})

    async def record(self, request: Request) -> Response:
        """Tell how a download is."""
        return Json(self._downloads.find(request.path_params["id"]).public())

    async def cancel(self, request: Request) -> Response:
        """End a download, and tell how it is."""
        return Json((await self._downloads.cancel(request.path_params["id"])).public())
