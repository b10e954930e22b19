"""The local server as a process."""

from __future__ import annotations

import logging
import signal
import socket

import pytest
from live import LiveServer, alive, free_port, live_server
from lone import site_in
from worker import GRAPH

from handler.errors import BootFailed
from handler.settings import Settings
from local_server.serve import announce_page, configure_logging, listen

SIZE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
RUNS = {**GRAPH, "1": {"class_type": "EmptyImage", "inputs": SIZE}}
SLEEPS = {
    "1": RUNS["1"],
    "3": {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": 30.0, "steps": 300}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path, number):
    """Status 0; the engine and all files are gone."""
    with live_server(tmp_path) as server:
        assert server.prompt(RUNS).status_code == 200
        engine = server.engine_pid()
        assert server.stop(number) == 0
    assert not alive(engine)
    assert server.left_files() == []


def test_the_port_is_open_while_the_engine_boots(tmp_path):
    """Probes get answers; a worker that cannot boot stays up to tell why."""
    server = LiveServer(tmp_path, ENGINE="comfyui", CMD="sh -c 'echo no luck; exit 7'")
    server.env |= {"ENGINE_RESTARTS": "0"}
    try:
        server.start(ready=False)
        server.wait_for("/health", status=500)
        assert "exited with code 7" in server.get("/health").json()["reason"]
        log = server.log.read_text()
        assert "the worker is unhealthy" in log
        assert "engine | no luck" in log
        assert "hint: " in log
    finally:
        assert server.stop() == 0


def test_a_stop_during_the_boot_is_clean(tmp_path):
    """Nobody waits for an engine that is not wanted any more."""
    server = LiveServer(tmp_path, ENGINE="comfyui", CMD="sleep 60")
    server.start(ready=False)
    assert server.stop() == 0


def test_an_ipv6_address_is_listened_on(tmp_path):
    """`::` takes IPv4 as well, where the system can."""
    for host, family in (("::1", socket.AF_INET6), ("127.0.0.1", socket.AF_INET)):
        with listen(host, 0) as listener:
            assert listener.family == family
    with listen("::", 0) as both, socket.create_connection(both.getsockname()[:2]):
        if socket.has_dualstack_ipv6():
            socket.create_connection(("127.0.0.1", both.getsockname()[1])).close()


def test_a_taken_port_is_an_error_before_anything_starts():
    """The operating system's words say which."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("word", "level"),
    [("trace", logging.DEBUG), ("warn", logging.WARNING), ("fatal", logging.CRITICAL)],
)
def test_levels_of_other_worlds_are_understood(word, level):
    """comfyui-api has trace, warn and fatal."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    httpx_level = logging.getLogger("httpx").level
    root.handlers.clear()
    try:
        configure_logging(Settings(log_level=word))
        assert root.level == level
        assert logging.getLogger("httpx").level == logging.WARNING
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        logging.getLogger("httpx").setLevel(httpx_level)


def test_comfyuis_own_page_is_told_where_there_is_one(tmp_path, caplog):
    """The embedded engine has none."""
    with pytest.raises(BootFailed, match="no ComfyUI is configured"):
        announce_page(site_in(tmp_path))
    caplog.set_level(logging.INFO)
    port = free_port()
    announce_page(site_in(tmp_path, ENGINE="comfyui", CMD="true", COMFYUI_PORT_HOST=str(port)))
    announce_page(site_in(tmp_path, ENGINE="auto", COMFY_URL="http://host:1"))

    assert f"http://127.0.0.1:{port}" in caplog.text
    assert "http://host:1" in caplog.text
