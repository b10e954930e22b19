"""A worker on SaladCloud: `python -m adapters.salad_container`.

The HTTP server on both address families, since the Container Gateway comes over IPv6 and the queue
worker to 127.0.0.1, and beside it: the deletion cost, the wish for another node, the queue worker.

    gateway ─► [::]:PORT /prompt, ...        queue worker ─► 127.0.0.1:PORT /queue
                          └────────► Handler ◄─────┘
    IMDS ◄── deletion cost, reallocation
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from adapters.serving import Platform, listen, serve
from handler.errors import BootFailed, HandlerError
from handler.settings import Settings, SettingsError, inherited_environment

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.routing import BaseRoute

    from adapters.asgi_body import JsonBodies
    from adapters.salad_imds import Imds
    from adapters.salad_queue import QueueRoute
    from handler.service import Handler

log = logging.getLogger("comfyfn.salad")
BOTH = "::"
QUEUE = "/queue"
GATEWAY_S = 100.0
"""The gateway's longest wait for an answer, which no group can raise."""
MARGIN = 0.05
"""Of that time, for the way there and back."""
WORKER_END_S = 10.0
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def main() -> int:
    """Serve until a signal.

    Returns:
        The exit status: 0 after a clean stop, 1 when serving failed, 2 for wrong settings.
    """
    try:
        return run(Settings.from_env(host=BOTH))
    except (SettingsError, HandlerError) as error:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        hint = getattr(error, "hint", None)
        log.critical("%s%s", error, f" ({hint})" if hint else "")
        return 2 if isinstance(error, SettingsError) else 1


def run(settings: Settings) -> int:
    """Serve with these settings; documented at `adapters.serving.serve`.

    Raises:
        BootFailed, SettingsError: as there, or the queue worker is no program.
    """
    worker = settings.queue_worker
    if worker is not None and not os.access(worker, os.X_OK):
        raise BootFailed(
            f"SALAD_QUEUE_WORKER={worker} is no program that can be run",
            hint="unpack the worker's release there, and make it executable",
            blame="image",
        )
    instance = dict(settings.system_metadata).get("salad_instance_id", "")
    settings = dataclasses.replace(settings, instance_id=settings.instance_id or instance)
    beside = Beside(settings)
    platform = Platform(
        name="salad",
        routes=beside.routes,
        beside=beside.run,
        drained=beside.drained,
        listen=listen_on_both,
        answer_within_s=gateway_limit(settings),
    )
    return serve(settings, platform)


def gateway_limit(settings: Settings) -> float:
    """Give the seconds that a caller's connection has; 0 where no gateway cuts it.

    A group has a queue or a gateway.
    """
    limit_s = settings.gateway_timeout_s
    if limit_s is None:
        limit_s = 0.0 if settings.queue_worker is not None else GATEWAY_S
    return limit_s * (1 - MARGIN)


def listen_on_both(host: str, port: int) -> socket.socket:
    """Open the port for IPv6 and IPv4 where `host` is `::`, for IPv4 where there is no other.

    Raises:
        BootFailed: as `adapters.serving.listen`.
    """
    if host != BOTH:
        return listen(host, port)
    if socket.has_dualstack_ipv6():
        try:
            return listen(BOTH, port)
        except BootFailed as fault:
            if getattr(fault.__cause__, "errno", None) not in _NO_IPV6:
                raise
    log.warning("this host has no IPv6: the Container Gateway will not reach this worker")
    return listen("0.0.0.0", port)  # noqa: S104  a container's


def metadata_url(settings: Settings) -> str:
    """Give where the metadata service is: as set, its own address on Salad, else ""."""
    from adapters.salad_imds import DEFAULT_URL

    on_salad = any(name.startswith("salad_") for name, _ in settings.system_metadata)
    return settings.metadata_uri or (DEFAULT_URL if on_salad else "")


class Beside:
    """What this platform adds to the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: QueueRoute | None = None
        self._worker_ended = asyncio.Event()

    def routes(self, handler: Handler, bodies: JsonBodies) -> list[BaseRoute]:
        """Give the queue's route."""
        from starlette.routing import Route

        from adapters.salad_queue import QueueRoute

        most = self._settings.max_body_mb << 20
        self._queue = QueueRoute(handler, bodies, most_body=most)
        return [Route(self._settings.queue_path or QUEUE, self._queue, methods=["POST"])]

    async def run(self, handler: Handler) -> None:
        """Do everything that is beside the server, until it is cancelled."""
        from adapters.salad_imds import Imds

        url = metadata_url(self._settings)
        async with contextlib.AsyncExitStack() as stack:
            parts: list[Coroutine[object, object, None]] = []
            if url:
                imds = await stack.enter_async_context(Imds(url))
                parts += self._with_imds(handler, imds)
            else:
                log.warning("not on Salad: neither deletion cost nor reallocation")
            if self._settings.queue_worker is not None:
                parts.append(self._work_queue(handler))
            async with asyncio.TaskGroup() as tasks:
                for part in parts:
                    tasks.create_task(_guarded(part))

    async def drained(self) -> None:
        """Wait until the queue worker is ended: it would refuse job after job at a closed port."""
        if self._settings.queue_worker is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._worker_ended.wait(), WORKER_END_S)

    def _with_imds(self, handler: Handler, imds: Imds) -> list[Coroutine[object, object, None]]:
        from adapters.salad_cost import follow_jobs
        from adapters.salad_node import LineWatch
        from adapters.salad_reallocation import Reallocation

        settings = self._settings
        line = LineWatch(settings.min_download_mbps, settings.min_download_window_s)
        reallocation = Reallocation(handler, imds, line, most=settings.reallocations)

        def in_hand() -> int:
            report = handler.health()
            return report.waiting + report.running

        return [follow_jobs(in_hand, imds.set_deletion_cost), reallocation.watch()]

    async def _work_queue(self, handler: Handler) -> None:
        from adapters.salad_worker import QueueWorker, worker_environment

        queue, binary = self._queue, self._settings.queue_worker
        assert queue is not None
        assert binary is not None
        env = worker_environment(inherited_environment(), self._settings.log_level)
        worker = QueueWorker(binary, env, health=handler.health, in_hand=lambda: queue.in_hand)
        try:
            await worker.run()
        finally:
            self._worker_ended.set()


async def _guarded(work: Coroutine[object, object, None]) -> None:
    """Keep what is beside it going when one part fails by a fault of ours."""
    try:
        await work
    except Exception:
        log.exception("a part beside the server failed")


if __name__ == "__main__":
    sys.exit(main())
