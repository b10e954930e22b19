"""The entry of `POST /prompt`: its examples run."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from adapters.openapi_prompt import MINIMAL_GRAPH, PNG_PIXEL, prompt_operation, with_targets
from handler.payload import parse_payload


def examples():
    body = prompt_operation()["requestBody"]["content"]["application/json"]
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


def test_the_headers_that_count_are_told():
    """Of the request and of both good answers."""
    operation = prompt_operation()
    names = {one["name"] for one in operation["parameters"]}
    assert names == {"Idempotency-Key", "Prefer", "traceparent"}
    assert "Idempotent-Replayed" in operation["responses"]["200"]["headers"]
    assert {"Location", "Preference-Applied"} <= set(operation["responses"]["202"]["headers"])


def test_targets_become_keys_of_the_request():
    """With the first line of what is said of each; nothing else is touched."""
    schemas = {
        "PromptRequest": {"properties": {"prompt": {}}, "required": ["prompt"]},
        "Targets": {"properties": {"s3": {"anyOf": [{"$ref": "#/components/schemas/S3"}]}}},
        "S3": {"description": "Amazon's.\n\nMore."},
    }
    made = with_targets(schemas)

    assert set(made["PromptRequest"]["properties"]) == {"prompt", "s3"}
    assert made["PromptRequest"]["properties"]["s3"]["description"] == "Amazon's."
    assert made["PromptRequest"]["required"] == ["prompt"]
    assert set(schemas["PromptRequest"]["properties"]) == {"prompt"}
