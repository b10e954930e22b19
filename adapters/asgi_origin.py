"""Keeps web pages of other sites from using this server through the browser of its owner.

There is no authentication, so whoever can send a request can run a graph. A page on the internet
can send to 127.0.0.1, and by DNS rebinding even read what comes back.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from handler.errors import ForeignOrigin

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send


class OwnOriginOnly:
    """ASGI middleware: refuses a request that another site's page sent.

    Args:
        app: what is kept.
        allowed: hosts whose pages may call, and names this server may be called by; `*` for all.
        loopback: whether the server listens on this machine alone: then a request by any other
            name is a page that had its name rebound.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str], loopback: bool) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 403."""
        fault = self._fault(scope) if scope["type"] == "http" and "*" not in self._allowed else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        body = orjson.dumps(fault.envelope())
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _fault(self, scope: Scope) -> ForeignOrigin | None:
        host = origin = ""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
        named = _hostname(f"//{host}")
        if self._loopback and host and not is_loopback(named) and named not in self._allowed:
            return ForeignOrigin(f"this server is not called {named[:200]!r}")
        if scope["method"] in {"GET", "HEAD", "OPTIONS"} or not origin:
            return None
        sender = _netloc(origin)
        if sender == host or _hostname(origin) in self._allowed:
            return None
        return ForeignOrigin(f"a web page of {origin[:200]!r} may not use this server")


def _netloc(origin: str) -> str:
    """Give host and port of an origin, empty for `null` and what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Tell whether a host name or address means this machine alone."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
