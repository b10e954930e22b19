"""The OpenAPI document tells the truth."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image
from starlette.routing import Route
from worker import worker

from adapters.asgi import Routes, make_app
from adapters.openapi import MINIMAL_GRAPH, PNG_PIXEL, document
from handler.payload import parse_payload
from handler.settings import Settings
from handler.version import VERSION


def references(value):
    """Every `$ref` in the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere():
    """And the version is ours."""
    made = document()
    schemas = made["components"]["schemas"]

    found = set(references(made))
    assert found
    assert {ref.rpartition("/")[2] for ref in found} <= set(schemas)
    assert (made["openapi"], made["info"]["version"]) == ("3.1.0", VERSION)


async def test_every_route_is_documented_and_no_other(tmp_path):
    """By path and method."""
    async with worker(tmp_path) as (handler, _):
        table = Routes(handler, Settings()).table()
        assert make_app(handler, Settings()).routes
    served = {
        (re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), method.lower())
        for route in table
        if isinstance(route, Route) and not route.path.startswith(("/docs", "/openapi"))
        for method in route.methods - {"HEAD"}
    }
    told = {(path, method) for path, item in document()["paths"].items() for method in item}

    assert told == served


def examples():
    body = document()["paths"]["/prompt"]["post"]["requestBody"]["content"]["application/json"]
    return [pytest.param(e["value"], id=name) for name, e in body["examples"].items()]


@pytest.mark.parametrize("value", examples())
def test_every_example_is_a_payload(value):
    """They are there to be sent."""
    assert parse_payload(value).prompt


def test_the_picture_of_the_examples_is_whole():
    """An encoder refuses what is broken, even where a viewer shows it."""
    image = Image.open(io.BytesIO(base64.b64decode(PNG_PIXEL)))
    assert image.size == (8, 8)
    image.verify()
    assert MINIMAL_GRAPH["3"]["class_type"] == "SaveImage"
