"""The OpenAPI document tells the truth."""

from __future__ import annotations

import re

from starlette.routing import Route
from worker import worker

from adapters.asgi import Routes, make_app
from adapters.openapi import document
from handler.records import TARGET_KINDS
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


def test_what_comes_is_told_with_its_uploads():
    """The upload objects are keys of the request, with all that each may have."""
    schemas = document()["components"]["schemas"]
    keys = schemas["PromptRequest"]["properties"]

    assert set(TARGET_KINDS) <= set(keys)
    assert {"webhook", "webhook_v2", "webhook_extra", "webhook_secret", "archive"} <= set(keys)
    assert all(keys[kind]["description"] for kind in TARGET_KINDS)
    assert {"bucket", "prefix", "async", "key"} <= set(schemas["S3Target"]["properties"])


def test_answers_repeat_every_target():
    """As the request has them."""
    schemas = document()["components"]["schemas"]

    for name in ("PromptAnswer", "PromptAccepted"):
        assert set(TARGET_KINDS) <= set(schemas[name]["properties"])


def test_every_operation_is_under_one_heading():
    """The page shows three."""
    paths = document()["paths"].values()
    tags = {tag for path in paths for operation in path.values() for tag in operation["tags"]}
    assert tags == {"jobs", "models", "health"}
