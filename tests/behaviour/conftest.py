"""Servers, engines and helpers of the promises; the session's shared `server` is one level up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.file_server import FileServer
from behaviour.lone_engine import LoneEngine
from behaviour.proxy import Proxy
from live import LiveServer, live_server

if TYPE_CHECKING:
    from pathlib import Path

BOTH = [
    pytest.param("embedded"),
    pytest.param("comfyui", marks=[pytest.mark.comfyui, pytest.mark.timeout(240)]),
]
StartServer = Callable[..., LiveServer]


@pytest.fixture(params=BOTH)
def engine(request: pytest.FixtureRequest) -> str:
    """Name each engine in turn."""
    return str(request.param)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Give a way to start servers of the test's own; they end with it."""
    started: list[LiveServer] = []

    def start(engine: str = "embedded", *, ready: bool = True, **env: str) -> LiveServer:
        one = LiveServer(tmp_path / f"server-{len(started)}", engine, **env)
        started.append(one)
        return one.start(ready=ready)

    yield start
    for one in started:
        if one.process is not None and one.process.poll() is None:
            one.stop()


@pytest.fixture(scope="session", params=BOTH)
def hard_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server whose engine tests may kill and freeze: it must come back by itself."""
    home = tmp_path_factory.mktemp(f"hard-{request.param}")
    # A node that hangs is in the way of the next test for as long as the grace.
    env = {"URL_ALLOW_HOSTS": "127.0.0.1", "CANCEL_GRACE_S": "5"}
    with live_server(home, request.param, **env) as running:
        yield running


@pytest.fixture(scope="session", params=BOTH)
def attached(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Give a server, the proxy it sees its engine through, and the engine behind it."""
    home = tmp_path_factory.mktemp(f"attached-{request.param}")
    lone = LoneEngine(home / "engine", request.param).start()
    proxy = Proxy(lone.port)
    try:
        env = {"ENGINE": "auto", "COMFY_URL": proxy.url, "URL_ALLOW_HOSTS": "127.0.0.1"}
        with live_server(home / "server", "embedded", **env) as running:
            running.engine = request.param
            yield running, proxy, lone
    finally:
        proxy.close()
        lone.kill()


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A file server."""
    served = FileServer()
    yield served
    served.close()
