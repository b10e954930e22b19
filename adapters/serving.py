"""The HTTP server: the engine is launched first, the server's own code loads while it boots."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.logs import configure_logging
from adapters.worker import begin, raise_open_files
from handler.engine.boot import Site, open_site
from handler.errors import BootFailed, HandlerError
from handler.records import CONVERTER_THREAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.routing import BaseRoute

    from adapters.asgi_body import JsonBodies
    from adapters.worker import Begun
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.server")
LEAST_SENDING_S = 1
HURRIED_STOP_S = 3.0
KINDS = {"comfyui": "ComfyUI", "embedded": "embedded engine", "attached": "attached ComfyUI"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a platform asks of the HTTP server beyond the API.

    Attributes:
        name: of the adapter, in logs, figures and answers.
        embedded_allowed: whether the embedded engine stands in where no ComfyUI is set;
            ENGINE=embedded asks for it everywhere.
        inline_bytes: the most that an answer may hold; 0 for no limit.
        answer_within_s: when a caller's connection is cut, in seconds; 0 for never.
        routes: further ones, made of the handler and the reader of bodies; they come first.
        beside: runs beside the server from when its port is open; cancelled when the jobs in hand
            are over, or by a second signal.
        drained: awaited when the jobs in hand are over, before the port is closed.
        listen: opens the port.
        sited: told where the engine lives, before it is begun.
    """

    name: str = "http"
    embedded_allowed: bool = False
    inline_bytes: int = 0
    answer_within_s: float = 0.0
    routes: Callable[[Handler, JsonBodies], list[BaseRoute]] | None = None
    beside: Callable[[Handler], Awaitable[None]] | None = None
    drained: Callable[[], Coroutine[Any, Any, None]] | None = None
    listen: Callable[[str, int], socket.socket] | None = None
    sited: Callable[[Site], None] | None = None


LOCAL = Platform(embedded_allowed=True)


def serve(settings: Settings, platform: Platform = LOCAL) -> int:
    """Serve until a signal.

    Returns:
        The exit status: 0 after a clean stop, 1 when serving failed.

    Raises:
        BootFailed: there is no engine to start here, or the address cannot be listened on.
        SettingsError: the manifest has faults, or cannot be carried out here.
    """
    raise_open_files()
    configure_logging(settings)
    ports = dict.fromkeys((settings.port, settings.health_port or settings.port))
    with contextlib.ExitStack() as stack:
        opened = platform.listen or listen
        listeners = [stack.enter_context(opened(settings.host, port)) for port in ports]
        site = open_site(settings, embedded_allowed=platform.embedded_allowed)
        stack.enter_context(contextlib.closing(site))
        warn_if_open(listeners[0])
        if settings.ui:
            announce_page(site)
        if platform.sited is not None:
            platform.sited(site)
        begun = begin(site)
        status = _run(begun, listeners, platform)
    leave_conversions(status)
    return status


def leave_conversions(status: int) -> None:
    """End the process now if a conversion still runs: nobody waits for it, and it cannot be told.

    An encoder may take minutes for one picture, and Python would wait for its thread.
    """
    if any(thread.name.startswith(CONVERTER_THREAD) for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(status)


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


def warn_if_open(listener: socket.socket) -> None:
    """Say so when others than this machine can reach the port: nobody is asked who they are."""
    host = str(listener.getsockname()[0])
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        log.warning(
            "open to the network without authentication (HOST=%s): "
            "put a gateway that asks for a key in front",
            host,
        )


def listen(host: str, port: int) -> socket.socket:
    """Open the port now: a taken one is an error before anything is started.

    Raises:
        BootFailed: it is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both, backlog=2048)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            why = f"port {port} of {host} is taken"
            hint = "end what listens there, or use --port / PORT"
        elif number == errno.EACCES:
            why = f"port {port} of {host} may not be listened on"
            hint = "use --port / PORT with a number over 1023"
        else:
            why = f"{host} cannot be listened on: {getattr(error, 'strerror', None) or error}"
            hint = "use --host / HOST with an address of this machine: 127.0.0.1, or 0.0.0.0"
        raise BootFailed(why, hint=hint, blame="image") from error


class Signals:
    """SIGTERM and SIGINT: the first asks for an orderly end, any other for one at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.again = asyncio.Event()

    def __call__(self) -> None:
        """Take one."""
        (self.again if self.first.is_set() else self.first).set()


def _run(begun: Begun, listeners: list[socket.socket], platform: Platform) -> int:
    async def main() -> int:
        signals, loop = Signals(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals)
        return await serve_handler(begun.handler(), begun.site, listeners, signals, platform)

    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(main())
    return asyncio.run(main())


async def serve_handler(
    handler: Handler,
    site: Site,
    listeners: list[socket.socket],
    signals: Signals,
    platform: Platform = LOCAL,
) -> int:
    """Boot a handler and serve it until a signal; whatever happens, it is stopped.

    Args:
        listeners: all answer alike; the first one is told.

    Returns:
        The exit status: 1 where the server, or the stop, failed.
    """
    server = _server(handler, site, platform)
    url = _url(listeners[0])
    log.info("listening on %s (docs at /docs); the engine boots", url)
    # Not awaited: the port answers /health while the engine boots.
    booting = asyncio.create_task(_start(handler, url), name="boot")
    serving = asyncio.create_task(server.serve(sockets=listeners), name="serve")
    first = asyncio.create_task(signals.first.wait())
    beside = asyncio.create_task(_beside(platform, handler), name=f"beside the {platform.name}")
    try:
        await asyncio.wait({serving, first}, return_when=asyncio.FIRST_COMPLETED)
        if signals.first.is_set():
            limit_s = site.settings.drain_timeout_s
            await _wind_up(handler, server, serving, signals, limit_s, platform.drained)
        served = _ended_well("the server", serving)
        if not signals.first.is_set():
            log.error("the server ended although nothing asked it to")
            served = False
    finally:
        for task in (first, booting, beside):
            task.cancel()
        await asyncio.gather(booting, first, beside, return_exceptions=True)
        stopping = asyncio.create_task(handler.stop(), name="stop")
        await _unless_hurried(stopping, signals, HURRIED_STOP_S)
    return 0 if _ended_well("the stop", stopping) and served else 1


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _beside(platform: Platform, handler: Handler) -> None:
    """Run what a platform has beside the server; its end is no reason to stop serving."""
    if platform.beside is None:
        return
    try:
        await platform.beside(handler)
    except Exception:
        log.exception("what runs beside the server failed")


def _server(handler: Handler, site: Site, platform: Platform) -> Any:
    import uvicorn

    from adapters.asgi import make_app

    config = uvicorn.Config(
        make_app(handler, site.settings, site.scratch, platform),
        http="httptools",
        ws="none",
        lifespan="off",  # its failures would be told to the log alone
        log_config=None,
        access_log=False,
        # Clients pool their connections; closing idle ones early makes their next request fail.
        timeout_keep_alive=120,
        server_header=False,
    )
    server: Any = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # they are ours
    return server


async def _wind_up(
    handler: Handler,
    server: Any,
    serving: asyncio.Task[None],
    signals: Signals,
    limit_s: float,
    drained: Callable[[], Coroutine[Any, Any, None]] | None,
) -> None:
    """End orderly: the jobs in hand, then the answers that are being sent, within one limit."""
    log.info("stopping: no new jobs are taken")
    begun = time.monotonic()
    draining = asyncio.create_task(handler.drain(limit_s), name="drain")
    await _unless_hurried(draining, signals, 0)
    _ended_well("the drain", draining)
    if signals.again.is_set():
        await handler.drain(0)
    elif drained is not None:
        last = asyncio.create_task(drained(), name="work beside the server")
        await _unless_hurried(last, signals, 0)
        _ended_well("what is beside the server", last)
    left = limit_s - (time.monotonic() - begun)
    server.config.timeout_graceful_shutdown = max(LEAST_SENDING_S, round(left))
    server.should_exit = True
    await _unless_hurried(serving, signals, LEAST_SENDING_S)


async def _unless_hurried(work: asyncio.Task[Any], signals: Signals, grace_s: float) -> None:
    """Wait until work has ended; from a second signal on it has `grace_s` seconds, not more."""
    again = asyncio.create_task(signals.again.wait())
    await asyncio.wait({work, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not work.done():
        log.warning("asked again to stop: the %s is cut short", work.get_name())
        await asyncio.wait({work}, timeout=grace_s)
    work.cancel()
    await asyncio.gather(work, again, return_exceptions=True)


def _ended_well(what: str, task: asyncio.Task[Any]) -> bool:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("%s failed: %s", what, error, exc_info=error)
    return error is None


async def _start(handler: Handler, url: str) -> None:
    begun = time.monotonic()
    try:
        await handler.start()
    except HandlerError as error:
        log.error("the worker is unhealthy: %s", error.message)
        whose = "engine" if type(error) is BootFailed else "log"
        for line in (error.log_tail or [])[-15:]:
            log.error("%s | %s", whose, line)
        if error.hint:
            log.error("hint: %s", error.hint)
        log.error("still answering /health with 500; Ctrl-C to stop")
    except Exception as error:
        log.error("the worker is unhealthy: a fault of ours in its boot", exc_info=error)
    else:
        report = handler.health()
        phases = (report.boot or {}).get("phases") or {}
        seconds = phases.get("total_s") or time.monotonic() - begun
        kind = KINDS.get(str(report.engine["kind"]), report.engine["kind"])
        log.info("ready in %.1f s: %s (docs: /docs), %s", seconds, url, kind)
