"""The documentation is served from here."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from worker import serving

from adapters.asgi_docs import docs_routes
from adapters.openapi import document


async def test_the_page_needs_nothing_but_this_server():
    """Every file that it names is served; none is elsewhere."""
    async with serving(Starlette(routes=docs_routes())) as client:
        page = await client.get("/docs")
        links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert page.headers["content-type"].startswith("text/html")
        assert links
        for link in links:
            assert "://" not in link
            assert (await client.get(f"/{link}")).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/json"])
async def test_the_document_is_served(path):
    """Under both names; the second is comfyui-api's."""
    async with serving(Starlette(routes=docs_routes())) as client:
        response = await client.get(path)
    assert response.json() == document()
