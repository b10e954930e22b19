"""A ComfyUI node pack without nodes: `POST /comfyfn/wake`, after a memory snapshot is restored."""

from __future__ import annotations

import asyncio
import hmac
import importlib
import logging
import os
import sys
from functools import partial
from typing import Any

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
log = logging.getLogger("comfyfn.snapshot")


def may_wake(remote: str | None, authorization: str, token: str) -> bool:
    """Tell whether a request is our server's: from this machine, and with the token."""
    wanted = f"Bearer {token}".encode()
    known = hmac.compare_digest(authorization.encode(errors="replace"), wanted)
    return bool(token) and remote in LOOPBACK and known


def add_route(routes: Any, web: Any, slumber: Any, token: str) -> None:
    """Add the route.

    Args:
        routes: aiohttp's, as ComfyUI has them.
        web: `aiohttp.web`.
        slumber: the module of that name.
    """

    async def wake(request: Any) -> Any:
        if not may_wake(request.remote, request.headers.get("Authorization", ""), token):
            return web.json_response({"error": "not allowed"}, status=403)
        told = await request.json()
        environment = told.get("environment") or {}
        work = partial(slumber.wake, slumber.own, environment, os.environ, sys.modules)
        try:
            # CUDA takes its time; the server answers meanwhile.
            answer = await asyncio.get_running_loop().run_in_executor(None, work)
        except Exception as fault:
            log.exception("the GPU cannot be used")
            return web.json_response({"error": f"{type(fault).__name__}: {fault}"}, status=500)
        log.info("awake on %s %s", answer["device"], answer["name"])
        return web.json_response(answer)

    routes.post("/comfyfn/wake")(wake)


if "server" in sys.modules and "comfyfn_slumber" in sys.modules:
    # Taken away: what this process starts must not have it.
    add_route(
        sys.modules["server"].PromptServer.instance.routes,
        importlib.import_module("aiohttp.web"),
        sys.modules["comfyfn_slumber"],
        os.environ.pop("COMFYFN_WAKE_TOKEN", ""),
    )
