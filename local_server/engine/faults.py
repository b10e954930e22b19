"""HTTP switches that break the engine on purpose; they exist only with `--test-faults`."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from local_server.engine.keys import ENGINE

# Long enough for the answer to leave before the event loop stands still.
FREEZE_DELAY_S = 0.02


async def drop_sockets(request: web.Request) -> web.Response:
    """Break all WebSocket connections without a closing handshake."""
    request.app[ENGINE].sockets.abort_all()
    return web.Response()


async def freeze_sockets(request: web.Request) -> web.Response:
    """Withhold all WebSocket messages while `frozen`; those withheld are lost."""
    request.app[ENGINE].sockets.frozen = bool((await request.json())["frozen"])
    return web.Response()


async def refuse_ws(request: web.Request) -> web.Response:
    """Answer new WebSocket connections with 503 while `refuse`."""
    request.app[ENGINE].sockets.refusing = bool((await request.json())["refuse"])
    return web.Response()


async def freeze(request: web.Request) -> web.Response:
    """Stand still for `seconds`: neither HTTP nor WebSocket is served."""
    seconds = float((await request.json())["seconds"])
    asyncio.get_running_loop().call_later(FREEZE_DELAY_S, time.sleep, seconds)
    return web.Response()


async def state(request: web.Request) -> web.Response:
    """Count interrupts, prompts that ran or run, and open WebSocket connections."""
    engine = request.app[ENGINE]
    return web.json_response(
        {
            "interrupts": engine.interruption.count,
            "prompts_run": engine.executor.runs,
            "sockets": engine.sockets.open_count,
        }
    )


ROUTES = (
    web.post("/_test/drop_sockets", drop_sockets),
    web.post("/_test/freeze_sockets", freeze_sockets),
    web.post("/_test/refuse_ws", refuse_ws),
    web.post("/_test/freeze", freeze),
    web.get("/_test/state", state),
)
