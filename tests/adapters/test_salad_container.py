"""What the worker on Salad is made of; as a process it is in tests/platforms."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest
from live import REPO

from adapters.salad_container import (
    Beside,
    gateway_limit,
    listen_on_both,
    main,
    metadata_url,
    run,
)
from handler.errors import BootFailed
from handler.settings import Settings, SettingsError


def test_the_gateways_limit_holds_where_there_is_one():
    """With a queue worker there is none; a setting wins. Some of it is for the way."""
    assert gateway_limit(Settings.from_env({})) == pytest.approx(95)
    assert gateway_limit(Settings.from_env({"SALAD_QUEUE_WORKER": "/x"})) == 0
    both = {"SALAD_QUEUE_WORKER": "/x", "GATEWAY_TIMEOUT_S": "40"}
    assert gateway_limit(Settings.from_env(both)) == pytest.approx(38)
    assert gateway_limit(Settings.from_env({"GATEWAY_TIMEOUT_S": "0"})) == 0


def test_the_metadata_service_is_asked_on_salad_alone():
    """Or where it is named."""
    assert metadata_url(Settings.from_env({})) == ""
    assert metadata_url(Settings.from_env({"SALAD_MACHINE_ID": "m"})).startswith("http://169.254.")
    assert metadata_url(Settings.from_env({"SALAD_METADATA_URI": "http://a:1"})) == "http://a:1"
    assert metadata_url(Settings.from_env({"SYSTEM_META_salad": "x"})) == ""


def test_both_loopbacks_reach_one_socket():
    """The gateway's family and the queue worker's."""
    with listen_on_both("::", 0) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        if socket.has_dualstack_ipv6():
            socket.create_connection(("::1", port)).close()


def test_an_address_that_is_named_is_taken_as_it_is():
    """And a port that is taken is an error on both."""
    with listen_on_both("127.0.0.1", 0) as listener:
        assert listener.family == socket.AF_INET
        with pytest.raises(BootFailed, match="is taken"):
            listen_on_both("127.0.0.1", listener.getsockname()[1])


def test_a_host_without_ipv6_is_served_over_ipv4():
    """In a process of its own, whose sockets know no IPv6."""
    program = f"""
import errno, socket
real = socket.socket.bind
def bind(self, address):
    if self.family == socket.AF_INET6:
        raise OSError({errno.EADDRNOTAVAIL}, "no IPv6")
    return real(self, address)
socket.socket.bind = bind
from adapters.salad_container import listen_on_both
with listen_on_both("::", 0) as listener:
    assert listener.family == socket.AF_INET
    assert listener.getsockname()[0] == "0.0.0.0"
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=30)


@pytest.mark.parametrize("path", ["queue", "/a b", "/", "//", "/queue?x=1"])
def test_a_path_that_is_none_is_told(path):
    """It would never be reached."""
    with pytest.raises(SettingsError, match="SALAD_QUEUE_PATH"):
        Settings.from_env({"SALAD_QUEUE_PATH": path})


def test_a_queue_worker_that_is_none_ends_the_start(tmp_path):
    """Before anything is launched."""
    settings = Settings.from_env({"SALAD_QUEUE_WORKER": str(tmp_path / "none")})
    with pytest.raises(BootFailed, match="no program"):
        run(settings)


def test_wrong_settings_end_it_with_2():
    """One line tells which."""
    env = {"PATH": os.environ["PATH"], "PORT": "x", "PYTHONPATH": str(REPO)}
    ended = subprocess.run(
        [sys.executable, "-m", "adapters.salad_container"],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "PORT='x' is no whole number" in ended.stderr
    assert callable(main)


async def test_the_queues_route_is_where_it_is_set():
    """And takes nothing but POST."""
    beside = Beside(Settings.from_env({"SALAD_QUEUE_PATH": "/jobs/salad"}))
    (route,) = beside.routes(None, None)
    assert (route.path, route.methods) == ("/jobs/salad", {"POST"})
    await beside.run(None)  # off Salad there is nothing to do


def test_what_launches_the_engine_is_light():
    """On a cold start it runs before everything else is loaded."""
    heavy = ("aiohttp", "httpx", "orjson", "pydantic", "starlette", "uvicorn", "numpy", "PIL")
    program = (
        f"import sys, adapters.salad_container; print([m for m in {heavy!r} if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"
