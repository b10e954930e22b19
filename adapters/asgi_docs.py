"""`/docs` and the OpenAPI document; Swagger UI's files are served from here, without a network."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from starlette.requests import Request

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>comfyfn API</title>
<link rel="stylesheet" href="docs/static/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true,
                 defaultModelsExpandDepth: 0, displayRequestDuration: true});
</script>
</body>
</html>
"""


def docs_routes() -> list[BaseRoute]:
    """List the routes of the documentation."""
    return [
        Route("/docs", _page, methods=["GET"]),
        Route("/docs/json", _document, methods=["GET"]),
        Route("/openapi.json", _document, methods=["GET"]),
        Mount("/docs/static", _Assets()),
    ]


async def _page(_request: Request) -> Response:
    return HTMLResponse(PAGE)


async def _document(_request: Request) -> Response:
    return Response(_encoded(), media_type="application/json")


@functools.cache
def _encoded() -> bytes:
    from adapters.openapi import document

    return orjson.dumps(document())


class _Assets:
    """Swagger UI's files, found on first use: most workers never show them."""

    def __init__(self) -> None:
        self._app: StaticFiles | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            import swagger_ui_bundle

            folder = Path(swagger_ui_bundle.__file__).parent / "vendor"
            found = next(folder.rglob("swagger-ui-bundle.js")).parent
            self._app = StaticFiles(directory=found)
        await self._app(scope, receive, send)
