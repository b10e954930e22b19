"""The local server: the engine is launched first, the server's own code loads while it boots."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import resource
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from handler.engine.boot import Site, launch, open_site
from handler.errors import BootFailed, HandlerError
from handler.records import CONVERTER_THREAD
from local_server.logs import configure_logging

if TYPE_CHECKING:
    from handler.engine.process import EngineProcess
    from handler.manifest.records import Manifest
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.server")
LEAST_SENDING_S = 1
MOST_FILES = 65_536
HURRIED_STOP_S = 3.0
KINDS = {"comfyui": "ComfyUI", "embedded": "embedded engine", "attached": "attached ComfyUI"}


def serve(settings: Settings) -> int:
    """Serve until a signal.

    Returns:
        The exit status: 0 after a clean stop, 1 when serving failed.

    Raises:
        BootFailed: there is no engine to start here, or the address cannot be listened on.
        SettingsError: the manifest has faults, or cannot be carried out here.
    """
    raise_open_files()
    configure_logging(settings)
    with (
        listen(settings.host, settings.port) as listener,
        contextlib.closing(open_site(settings, embedded_allowed=True)) as site,
    ):
        warn_if_open(listener)
        manifest = _manifest(site)
        if settings.ui:
            announce_page(site)
        process: EngineProcess | None = None
        if _waits(manifest):
            site.begin_read_ahead()
        elif site.kind != "attached":
            # Told again, with its retries, by the handler.
            with contextlib.suppress(HandlerError, OSError):
                process = launch(site)
        status = _run(site, process, manifest, listener)
    leave_conversions(status)
    return status


def raise_open_files() -> None:
    """Allow ourselves as many open files and connections as we may have: 1024 are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _manifest(site: Site) -> Manifest | None:
    if site.settings.manifest is None and not site.settings.manifest_json:
        return None  # then nothing of it is loaded before the engine is launched
    from handler.manifest.start import manifest_of

    return manifest_of(site)


def _waits(manifest: Manifest | None) -> bool:
    """Tell whether the engine is to be launched later, when what it needs is installed."""
    if manifest is None:
        return False
    from handler.manifest.start import holds_launch

    return holds_launch(manifest)


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


def _run(
    site: Site,
    process: EngineProcess | None,
    manifest: Manifest | None,
    listener: socket.socket,
) -> int:
    async def main() -> int:
        from handler.build import build_handler

        signals, loop = Signals(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals)
        handler = build_handler(site, process, manifest)
        return await serve_handler(handler, site, listener, signals)

    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(main())
    return asyncio.run(main())


async def serve_handler(
    handler: Handler, site: Site, listener: socket.socket, signals: Signals
) -> int:
    """Boot a handler and serve it until a signal; whatever happens, it is stopped.

    Returns:
        The exit status: 1 where the server, or the stop, failed.
    """
    server = _server(handler, site)
    url = _url(listener)
    log.info("listening on %s (docs at /docs); the engine boots", url)
    # Not awaited: the port answers /health while the engine boots.
    booting = asyncio.create_task(_start(handler, url), name="boot")
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="serve")
    first = asyncio.create_task(signals.first.wait())
    try:
        await asyncio.wait({serving, first}, return_when=asyncio.FIRST_COMPLETED)
        if signals.first.is_set():
            await _wind_up(handler, server, serving, signals, site.settings.drain_timeout_s)
        served = _ended_well("the server", serving)
        if not signals.first.is_set():
            log.error("the server ended although nothing asked it to")
            served = False
    finally:
        first.cancel()
        booting.cancel()
        await asyncio.gather(booting, first, return_exceptions=True)
        stopping = asyncio.create_task(handler.stop(), name="stop")
        await _unless_hurried(stopping, signals, HURRIED_STOP_S)
    return 0 if _ended_well("the stop", stopping) and served else 1


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(handler: Handler, site: Site) -> Any:
    import uvicorn

    from adapters.asgi import make_app

    config = uvicorn.Config(
        make_app(handler, site.settings, site.scratch),
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
    handler: Handler, server: Any, serving: asyncio.Task[None], signals: Signals, limit_s: float
) -> None:
    """End orderly: the jobs in hand, then the answers that are being sent, within one limit."""
    log.info("stopping: no new jobs are taken")
    begun = time.monotonic()
    draining = asyncio.create_task(handler.drain(limit_s), name="drain")
    await _unless_hurried(draining, signals, 0)
    _ended_well("the drain", draining)
    if signals.again.is_set():
        await handler.drain(0)
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
