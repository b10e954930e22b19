"""Tests of adapters/asgi_origin.py."""

from __future__ import annotations

import orjson
import pytest

from adapters.asgi_origin import OwnOriginOnly, is_loopback


async def answered(
    method="POST", *, loopback=True, allowed=(), kind="http", **headers: str
) -> tuple[int, bytes]:
    """Send a request through the guard and give status and body."""
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    async def send(message):
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    guard = OwnOriginOnly(app, allowed=allowed, loopback=loopback)
    await guard({"type": kind, "method": method, "headers": raw}, None, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"host": "127.0.0.1:3000"}, 200),
        ({"host": "localhost:3000", "origin": "http://localhost:3000"}, 200),
        ({"host": "[::1]:3000"}, 200),
        ({}, 200),
        ({"host": "127.0.0.1:3000", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "null"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "http://[broken"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:8080"}, 403),
        ({"host": "evil.example:3000", "origin": "http://evil.example:3000"}, 403),
        ({"host": "evil.example", "method": "GET"}, 403),
        ({"host": "api.example", "loopback": False}, 200),
        ({"host": "api.example", "origin": "https://api.example", "loopback": False}, 200),
        ({"host": "api.example", "origin": "https://evil.example", "loopback": False}, 403),
        ({"host": "h", "origin": "https://a.example", "loopback": False, "method": "GET"}, 200),
        ({"host": "my.box", "origin": "https://my.box:1", "allowed": ["my.box"]}, 200),
        ({"host": "evil.example", "origin": "https://evil.example", "allowed": ["*"]}, 200),
        ({"host": "evil.example", "kind": "websocket"}, 200),
    ],
)
async def test_only_our_own_pages_may_send(options, status):
    """A page of another site is refused, and a name that is not ours on loopback."""
    assert (await answered(**options))[0] == status


async def test_the_refusal_is_the_envelope():
    """It says what to set, as every error does."""
    _, body = await answered(host="127.0.0.1", origin="https://evil.example")

    told = orjson.loads(body)
    assert told["code"] == "foreign_origin"
    assert "ALLOW_ORIGINS" in told["hint"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("example.com", False),
        ("10.0.0.1", False),
        ("", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_is_known(name, ours):
    """By name and by address."""
    assert is_loopback(name) is ours
