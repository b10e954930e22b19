"""JSON as the routes answer it."""

from __future__ import annotations

from adapters.asgi_json import Json


def test_json_is_told_with_its_charset_and_takes_any_key():
    """As comfyui-api's answers are."""
    answer = Json({1: "ü"}, status_code=202)
    assert answer.body == '{"1":"ü"}'.encode()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
