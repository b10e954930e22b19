"""JSON as the routes answer it."""

from __future__ import annotations

import json

import pytest

from adapters.asgi_json import Json, refusal
from handler.errors import NotFound, QueueFull


def test_json_is_told_with_its_charset_and_takes_any_key():
    """As comfyui-api's answers are."""
    answer = Json({1: "ü"}, status_code=202)
    assert answer.body == '{"1":"ü"}'.encode()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_a_refusal_is_the_envelope_with_its_status():
    """And with the headers that the route has to say."""
    answer = refusal(NotFound("no such thing"), {"X-Comfyfn-Id": "a"})
    assert answer.status_code == 404
    assert json.loads(answer.body)["code"] == "not_found"
    assert answer.headers["x-comfyfn-id"] == "a"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1"), (2.4, "2"), (None, None)])
def test_retry_after_is_in_whole_seconds(seconds, told):
    """At least one."""
    answer = refusal(QueueFull("x", retry_after_s=seconds))
    assert answer.headers.get("retry-after") == told
