"""The engine's HTTP routes for prompts, the queue and the history, and the app around all routes.

Faults that ComfyUI does not foresee (a body that is no JSON, a prompt that is no object) are
exceptions here as well: aiohttp answers them with the same 500 and the same text.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from local_server.engine import faults, files, info
from local_server.engine.keys import ENGINE
from local_server.engine.validate import validate_prompt

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from local_server.engine.engine import Engine

logger = logging.getLogger("comfyfn.embedded")

PAGE = (
    "<!doctype html><title>comfyfn</title>"
    "<p>This is comfyfn's embedded engine. It speaks ComfyUI's protocol and has no user interface."
)


def build_app(engine: Engine) -> web.Application:
    """Give the application with every route, each also under `/api`."""
    app = web.Application(
        client_max_size=engine.config.max_upload_bytes, middlewares=[refuse_other_origins]
    )
    app[ENGINE] = engine
    routes = [*ROUTES, *files.ROUTES, *info.ROUTES]
    app.add_routes(
        web.route(route.method, prefix + route.path, route.handler)
        for route in routes
        for prefix in ("", "/api")
    )
    if engine.config.test_faults:
        app.add_routes(faults.ROUTES)
    # ComfyUI serves its web page's files below /, so an unknown path is known to GET only.
    app.router.add_get("/{path:.*}", _not_found)
    return app


@web.middleware
async def refuse_other_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a web page of another site sends to a server on the same machine."""
    if _is_foreign(request.headers.get("Host"), request.headers.get("Origin")):
        logger.warning("a request of another origin was refused")
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _is_foreign(host: str | None, origin: str | None) -> bool:
    """Tell whether the Origin is another than a loopback Host; ports count if both are given."""
    if host is None or origin is None:
        return False
    here, there = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
    if not here.hostname or not there.hostname or not _is_loopback(here.hostname):
        return False
    if here.port is None or there.port is None:
        return here.hostname != there.hostname
    return here.netloc != there.netloc


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


async def _not_found(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    return web.Response(status=404, content_type="application/octet-stream")


async def page(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    """Answer `GET /`."""
    return web.Response(text=PAGE, content_type="text/html")


async def websocket(request: web.Request) -> web.StreamResponse:
    """Serve `/ws`."""
    return await request.app[ENGINE].sockets.serve(request)


async def get_prompt(request: web.Request) -> web.Response:
    """Tell how many prompts are left."""
    return web.json_response(request.app[ENGINE].exec_info())


async def post_prompt(request: web.Request) -> web.Response:
    """Check a prompt and queue it."""
    engine = request.app[ENGINE]
    logger.info("got prompt")
    body: Any = await request.json()
    number = _number(engine, body)
    if "prompt" not in body:
        text = "No prompt provided"
        error = {"type": "no_prompt", "message": text, "details": text, "extra_info": {}}
        return web.json_response({"error": error, "node_errors": {}}, status=400)
    graph = body["prompt"]
    prompt_id = str(body.get("prompt_id", uuid.uuid4()))
    targets = body.get("partial_execution_targets")
    verdict = validate_prompt(graph, engine.nodes, engine.folders, targets)
    if verdict.error is not None:
        logger.warning("invalid prompt: %s", verdict.error)
        refusal = {"error": verdict.error, "node_errors": verdict.node_errors}
        return web.json_response(refusal, status=400)
    extra = body.get("extra_data", {})
    if not isinstance(extra, dict):
        # ComfyUI accepts it, and its worker dies of it.
        raise TypeError("extra_data is no object")
    if "client_id" in body:
        extra["client_id"] = body["client_id"]
    engine.queue.put((number, prompt_id, graph, extra, verdict.outputs))
    return web.json_response(
        {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
    )


def _number(engine: Engine, body: Any) -> float:
    """Give a prompt's place: its own number, or the count of prompts, negated for the front."""
    if "number" in body:
        return float(body["number"])
    number = engine.take_number()
    return -number if _asked(body, "front") else number


def _asked(body: Any, key: str) -> bool:
    """Read a switch of a body, which may be a list or a string as well."""
    return key in body and bool(body[key])


async def get_queue(request: web.Request) -> web.Response:
    """Show the prompts that run and wait."""
    return web.json_response(request.app[ENGINE].queue.snapshot())


async def post_queue(request: web.Request) -> web.Response:
    """Drop prompts that wait."""
    queue = request.app[ENGINE].queue
    body = await request.json()
    if _asked(body, "clear"):
        queue.clear()
    if "delete" in body:
        for prompt_id in body["delete"]:
            queue.delete(prompt_id)
    return web.Response()


async def post_interrupt(request: web.Request) -> web.Response:
    """Ask the running prompt to stop; one that is named only if it is the running one."""
    engine = request.app[ENGINE]
    try:
        body = await request.json()
    except json.JSONDecodeError:
        body = {}
    wanted = body.get("prompt_id")
    if not wanted or wanted == engine.queue.running_id():
        engine.interruption.ask()
    return web.Response()


async def post_free(request: web.Request) -> web.Response:
    """Ask the worker to free memory before its next prompt."""
    body = await request.json()
    request.app[ENGINE].queue.ask(
        unload_models=bool(body.get("unload_models", False)),
        free_memory=bool(body.get("free_memory", False)),
    )
    return web.Response()


async def get_history(request: web.Request) -> web.Response:
    """Show the prompts that ended, oldest first."""
    query = request.query
    max_items = int(query["max_items"]) if "max_items" in query else None
    offset = int(query["offset"]) if "offset" in query else -1
    return web.json_response(request.app[ENGINE].queue.history(max_items, offset))


async def get_history_of(request: web.Request) -> web.Response:
    """Show one prompt that ended, `{}` for any other."""
    return web.json_response(request.app[ENGINE].queue.history_of(request.match_info["prompt_id"]))


async def post_history(request: web.Request) -> web.Response:
    """Forget prompts that ended."""
    queue = request.app[ENGINE].queue
    body = await request.json()
    if _asked(body, "clear"):
        queue.clear_history()
    if "delete" in body:
        queue.forget(body["delete"])
    return web.Response()


ROUTES = (
    web.get("/", page),
    web.get("/ws", websocket),
    web.get("/prompt", get_prompt),
    web.post("/prompt", post_prompt),
    web.get("/queue", get_queue),
    web.post("/queue", post_queue),
    web.post("/interrupt", post_interrupt),
    web.post("/free", post_free),
    web.get("/history", get_history),
    web.get("/history/{prompt_id}", get_history_of),
    web.post("/history", post_history),
)
