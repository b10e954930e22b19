"""A worker on the engine in memory, and a real HTTP server around an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from handler.build import build_ledger, build_webhooks
from handler.engine.memory import MemoryEngine
from handler.job import Job
from handler.metrics import Metrics
from handler.models.library import ModelLibrary
from handler.models.store import Store
from handler.payload import parse_payload
from handler.pipeline.stages import Parts, Received
from handler.pipeline.storage import UploadProviders
from handler.service import Handler
from handler.settings import Settings
from handler.transfer.download import Downloader
from handler.transfer.operator import (
    caller_sources,
    media_limits,
    media_sources,
    operator_sources,
)
from handler.transfer.records import Limits
from handler.transfer.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from handler.models.records import Named

GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "x"},
        "_meta": {"title": "the picture"},
    },
}


def parts_in(
    home: Path,
    settings: Settings | None = None,
    *,
    catalogue: Mapping[str, Named] | None = None,
    **engine: Any,
) -> Parts:
    """Wire parts whose engine is in memory and whose downloads may reach this machine."""
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / "scratch"
    scratch.mkdir(exist_ok=True)
    settings = settings or Settings()
    threads, limits, metrics = Threads(), Limits(backoff_s=0.01), Metrics()
    media_fast = replace(media_limits(settings), backoff_s=0.01)
    open_here = replace(settings, url_allow_hosts=settings.url_allow_hosts or "127.0.0.1")
    callers, operators = caller_sources(open_here, threads), operator_sources(settings, threads)
    sources = media_sources(open_here, threads)
    count = sources.counting(metrics)
    media = Downloader(sources, threads=threads, limits=media_fast, count=count)
    downloader = Downloader(callers, threads=threads, limits=limits, count=count)
    operator = Downloader(operators, threads=threads, limits=limits)
    store = Store(home / "cache", metrics=metrics)
    store.attach(downloader, operator)
    store.open()
    in_memory = MemoryEngine(home, **engine)
    return Parts(
        settings=settings,
        engine=in_memory,
        media=media,
        downloader=downloader,
        operator=operator,
        models=ModelLibrary(store, in_memory, catalogue, operator),
        scratch=scratch,
        providers=_noted(UploadProviders(open_here, backoff_s=0.01)),
        metrics=metrics,
    )


PROVIDERS: list[UploadProviders] = []
"""Those that were made; tests that have no handler to stop close them."""


def _noted(providers: UploadProviders) -> UploadProviders:
    PROVIDERS.append(providers)
    return providers


def received(graph: Any = GRAPH, **keys: Any) -> Received:
    """Make a job that has just come."""
    request = parse_payload({"prompt": graph, **keys})
    return Received(Job(uid="uid", id=request.id or "job"), request)


@contextlib.asynccontextmanager
async def worker(
    home: Path, settings: Settings | None = None, *, start: bool = True, **engine: Any
) -> AsyncIterator[tuple[Handler, MemoryEngine]]:
    """Give a started handler and its engine; stop it afterwards."""
    settings = replace(settings or Settings(), state_dir=home / "state")
    parts = parts_in(home, settings, **engine)
    handler = Handler(
        parts,
        ledger=build_ledger(settings, parts.identity),
        webhooks=build_webhooks(settings, parts.metrics, parts.scratch),
    )
    assert isinstance(parts.engine, MemoryEngine)
    try:
        if start:
            await handler.start()
        yield handler, parts.engine
    finally:
        await handler.stop()


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application on a free port and give a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Without its main loop, which only ticks: a test ends at once, not at the next tick.
        await server.startup(sockets=[listener])
        port = listener.getsockname()[1]
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
        ) as client:
            try:
                yield client
            finally:
                await client.aclose()
                await server.shutdown(sockets=[listener])


async def until(true: Any, limit_s: float = 10.0) -> None:
    """Wait until `true()` holds, for states that nobody can await."""
    async with asyncio.timeout(limit_s):
        while not true():
            await asyncio.sleep(0.005)
