"""Fixtures that many tests share; the servers themselves are in live.py."""

from __future__ import annotations

import collections
import signal
from typing import TYPE_CHECKING, Any

import pytest
from live import COMFY_HOME, ENGINES, LiveServer, live_server

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    """Have Ctrl-C heeded by what tests start, even where we were started to ignore it.

    A shell does that to what it runs in the background, and processes inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that need a real ComfyUI out where there is none, and say so."""
    reason = "no real ComfyUI: COMFY_HOME is not set"
    for item in items:
        if "comfyui" in item.keywords and not COMFY_HOME:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List what was not run and why, a line a reason."""
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run: {count} tests: {reason}")


ENGINE_PARAMS = [
    pytest.param(name, marks=[pytest.mark.comfyui] if name == "comfyui" else [])
    for name in ("embedded", "comfyui")
]
assert set(ENGINES) <= {"embedded", "comfyui"}


@pytest.fixture(scope="session", params=ENGINE_PARAMS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server for every test that leaves it as it was; once per engine."""
    home = tmp_path_factory.mktemp(f"server-{request.param}")
    env = {"URL_ALLOW_HOSTS": "127.0.0.1", "WEBHOOK_SECRET": "testsecret"}
    with live_server(home, request.param, **env) as running:
        yield running
