"""The local server: the engine is launched first, the server's own code loads while it boots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

from handler.engine.boot import Site, launch, open_site
from handler.errors import BootFailed, HandlerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

    from handler.engine.process import EngineProcess
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.server")
LEVELS = {"trace": "DEBUG", "warn": "WARNING", "fatal": "CRITICAL"}


def configure_logging(settings: Settings) -> None:
    """Write our lines to standard error, with the level that is asked for."""
    level = LEVELS.get(settings.log_level, settings.log_level.upper())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # httpx tells every request at INFO, query strings and their tokens included.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def serve(settings: Settings) -> int:
    """Serve until a signal; the exit status is 0 after a clean stop.

    Raises:
        BootFailed: there is no engine to start here.
        OSError: the address cannot be listened on.
    """
    configure_logging(settings)
    listener = listen(settings.host, settings.port)
    site = open_site(settings, embedded_allowed=True)
    if settings.ui:
        announce_page(site)
    process: EngineProcess | None = None
    if site.kind != "attached":
        with contextlib.suppress(HandlerError):  # told again, with its retries, by the handler
            process = launch(site)
    return _run(site, process, listener)


def announce_page(site: Site) -> None:
    """Say where ComfyUI's own page is.

    Raises:
        BootFailed: the embedded engine has none.
    """
    if site.kind == "embedded":
        raise BootFailed(
            "--ui shows ComfyUI's own page, and no ComfyUI is configured",
            hint="set COMFY_HOME to a ComfyUI",
        )
    url = site.settings.comfy_url or f"http://127.0.0.1:{site.settings.comfy_port}"
    log.info("ComfyUI's page: %s (once it has booted)", url)


def listen(host: str, port: int) -> socket.socket:
    """Open the port now: a taken one is an error before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=family, dualstack_ipv6=True, backlog=2048)
    return socket.create_server((host, port), family=family, backlog=2048)


def _run(site: Site, process: EngineProcess | None, listener: socket.socket) -> int:
    import uvicorn

    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(_serve(site, process, listener, uvicorn))
    return asyncio.run(_serve(site, process, listener, uvicorn))


async def _serve(
    site: Site, process: EngineProcess | None, listener: socket.socket, uvicorn: Any
) -> int:
    from adapters.asgi import make_app
    from handler.build import build_handler

    handler = build_handler(site, process)
    app = make_app(handler, site.settings, lifespan=_lifespan(handler))
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        # Clients pool their connections; closing idle ones early makes their next request fail.
        timeout_keep_alive=120,
        server_header=False,
        # Jobs have ended by then; this is for answers that are still being sent.
        timeout_graceful_shutdown=max(5, round(site.settings.drain_timeout_s)),
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    server.capture_signals = contextlib.nullcontext
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    host, port = listener.getsockname()[:2]
    log.info(
        "listening on http://%s:%d (docs at /docs)", f"[{host}]" if ":" in host else host, port
    )
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        log.info("stopping: no new jobs are taken")
        await handler.drain()
        server.should_exit = True
        await serving
    return 0


def _lifespan(handler: Handler) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        # Not awaited: the port answers /health while the engine boots.
        booting = asyncio.create_task(_start(handler), name="boot")
        try:
            yield
        finally:
            booting.cancel()
            await asyncio.gather(booting, return_exceptions=True)
            await handler.stop()

    return lifespan


async def _start(handler: Handler) -> None:
    try:
        await handler.start()
    except HandlerError as error:
        log.error("the worker is unhealthy: %s", error.message)
        for line in (error.log_tail or [])[-15:]:
            log.error("engine | %s", line)
        if error.hint:
            log.error("hint: %s", error.hint)
