"""The local server as a process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from live import LiveServer, alive, free_port, live_server
from lone import site_in
from shell import comfyfn
from worker import GRAPH, parts_in, until

from adapters.serving import (
    Signals,
    announce_page,
    listen,
    serve_handler,
    warn_if_open,
)
from handler.engine.memory import MemoryEngine
from handler.errors import BootFailed
from handler.service import Handler

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
    """Which, and what moves ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BootFailed, match=f"port {port} of 127.0.0.1 is taken") as caught:
            listen("127.0.0.1", port)
    assert "--port / PORT" in caught.value.hint


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
def test_an_address_of_another_machine_is_an_error(host):
    """A mistyped HOST, told by its name."""
    with pytest.raises(BootFailed, match=f"{host} cannot be listened on") as caught:
        listen(host, 0)
    assert "--host / HOST" in caught.value.hint


@pytest.mark.parametrize(("host", "lines"), [("127.0.0.1", 0), ("::1", 0), ("0.0.0.0", 1)])
def test_a_port_open_to_the_network_is_a_warning(caplog, host, lines):
    """Nobody who calls is asked who they are."""
    with listen(host, 0) as listener:
        warn_if_open(listener)
    assert caplog.text.count("open to the network without authentication") == lines


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


def test_a_refused_page_leaves_nothing_behind(tmp_path):
    """The start ends before the engine could have removed the scratch folder."""
    said = comfyfn("serve", "--ui", home=tmp_path, WORK_DIR=str(tmp_path / "work"))
    assert said.returncode == 1
    assert list((tmp_path / "work").iterdir()) == []


class Unruly(MemoryEngine):
    """An engine whose start and stop fail as a full disk makes them fail."""

    bad_start = bad_stop = False

    async def start(self):
        if self.bad_start:
            raise OSError(28, "No space left on device")
        await super().start()

    async def stop(self):
        await super().stop()
        if self.bad_stop:
            raise OSError(28, "No space left on device")


@contextlib.asynccontextmanager
async def served(home, listener=None, **faults):
    """Give the task of a server in this process, its signals, and a client."""
    engine = Unruly(home)
    for name, value in faults.items():
        setattr(engine, name, value)
    handler = Handler(dataclasses.replace(parts_in(home), engine=engine))
    signals = Signals()
    with (
        listener or listen("127.0.0.1", 0) as listener,
        contextlib.closing(site_in(home)) as site,
    ):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(serve_handler(handler, site, [listener], signals))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            try:
                yield task, signals, client
            finally:
                signals()
                await asyncio.wait({task}, timeout=10)


async def test_a_stop_without_fault_is_status_0(tmp_path):
    """What the platform sees."""
    async with served(tmp_path) as (task, signals, client):
        assert (await client.get("/health")).status_code == 200
        signals()
        assert await task == 0


async def test_a_stop_that_fails_is_status_1(tmp_path, caplog):
    """With its reason in the log."""
    async with served(tmp_path, bad_stop=True) as (task, signals, client):
        await client.get("/health")
        signals()
        assert await task == 1
    assert "the stop failed: [Errno 28] No space left" in caplog.text


async def test_a_server_that_fails_is_status_1(tmp_path, caplog):
    """It does not wait for a signal; the handler is stopped all the same."""
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    async with served(tmp_path, datagrams) as (task, _, _client):
        assert await asyncio.wait_for(task, 5) == 1
    assert "the server failed" in caplog.text


async def test_a_boot_that_fails_in_no_known_way_is_told(tmp_path, caplog):
    """The port stays open to tell how the worker is."""
    async with served(tmp_path, bad_start=True) as (task, signals, client):
        await until(lambda: "the worker is unhealthy" in caplog.text)
        assert (await client.get("/ready")).status_code == 503
        signals()
        assert await task == 0
    assert "No space left on device" in caplog.text


def sleeping(server):
    """Begin a job of 30 seconds and wait until it runs; give its answer's future."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    answer = pool.submit(server.prompt, SLEEPS, id="sleeper")
    pool.shutdown(wait=False)
    with contextlib.suppress(httpx.HTTPError):
        while server.get("/jobs/sleeper").json().get("status") != "running":
            time.sleep(0.02)
    return answer


def test_a_second_signal_ends_it_at_once(tmp_path):
    """Jobs are cancelled and told so; files and engine are gone as after the first."""
    server = LiveServer(tmp_path, DRAIN_TIMEOUT_S="30").start()
    try:
        answer = sleeping(server)
        engine = server.engine_pid()
        server.process.send_signal(signal.SIGTERM)
        while server.get("/ready").json()["phase"] != "draining":
            time.sleep(0.02)
        begun = time.monotonic()
        assert server.stop(signal.SIGINT, limit_s=10) == 0
        assert time.monotonic() - begun < 5
        assert answer.result(5).json()["code"] == "cancelled"
        assert not alive(engine)
        assert server.left_files() == []
    finally:
        server.stop(signal.SIGKILL)


def test_connections_that_hang_share_the_limit_with_the_jobs(tmp_path):
    """DRAIN_TIMEOUT_S is for both: what the jobs took is not given a second time."""
    server = LiveServer(tmp_path, DRAIN_TIMEOUT_S="2").start()
    try:
        answer = sleeping(server)
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            # The rest of its request never comes.
            slow.sendall(b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            begun = time.monotonic()
            assert server.stop(limit_s=15) == 0
            assert time.monotonic() - begun < 4.5
        assert answer.result(5).json()["code"] == "cancelled"
    finally:
        server.stop(signal.SIGKILL)


def test_what_a_killed_server_left_is_swept_by_the_next(tmp_path):
    """Its scratch folder, with the engine's temporary pictures."""
    server = LiveServer(tmp_path).start()
    (left,) = server.work.iterdir()
    server.stop(signal.SIGKILL)
    assert left.is_dir()
    # A start that is refused, but late enough: it has chosen its engine and opened its folders.
    said = comfyfn("serve", "--ui", home=tmp_path, WORK_DIR=str(server.work))
    assert said.returncode == 1
    assert not left.exists()


def test_as_many_files_may_be_open_as_the_system_allows():
    """1024, a shell's usual limit, are used up by a thousand followers."""
    script = (
        "import resource; from adapters.serving import raise_open_files; "
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); raise_open_files(); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(said.stdout) > 256
