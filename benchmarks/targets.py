"""Servers under test: started with an engine and a ComfyUI home of their own, asked, stopped."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiohttp
from processes import kill, using
from shapes import SHAPES, Answer, Graph, fault, noise_graph
from specs import HERE, REPO, Spec

if TYPE_CHECKING:
    from types import TracebackType

STUB = HERE / "stub_engine.py"
MEMORY_DISK = Path("/dev/shm")
# Below the range from which the kernel takes ports for outgoing connections, so that none of
# the bench's own connections can sit on a port that a target is about to listen on.
PORTS = range(18_200, 28_000)
HOME_FOLDERS = (
    "input", "output", "temp", "workflows", "cache", "custom_nodes", "models/checkpoints",
    "models/configs", "models/loras", "models/vae", "models/controlnet", "models/text_encoders",
    "models/diffusers", "models/upscale_models",
)  # fmt: skip
POLL_S = 0.01
LOST = (TimeoutError, aiohttp.ClientError, OSError)  # no answer came
LARGE_BODY = 1 << 20


class TargetFailedError(Exception):
    """A target that did not start, or whose command is not there."""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


# Each target takes the next ones: what was handed out may not be listened on yet.
_candidates = itertools.cycle((*PORTS[os.getpid() % len(PORTS) :], *PORTS))


def _free_port() -> int:
    return next(port for port in _candidates if not _listens(port))


def _port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


class Target:
    """One server with its own engine. `async with` starts and stops both.

    Args:
        spec: what to start.
        scratch: folder for logs, and for homes where no memory disk is to be had.
        boot_s: how long after its start the engine begins to listen.
        extra_env: added to the server's environment.
    """

    def __init__(
        self,
        spec: Spec,
        scratch: Path,
        *,
        boot_s: float = 0.0,
        extra_env: dict[str, str] | None = None,
    ) -> None:
        self.spec, self.name, self.shape = spec, spec.name, spec.shape
        self.scratch, self.boot_s, self.extra_env = scratch, boot_s, extra_env or {}
        base = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else scratch
        self.runs = base / f"comfyfn-bench-{os.getpid()}"
        self.home = self.runs / spec.name
        self.log = scratch / "logs" / f"{spec.name}.log"
        self.engine_port = spec.engine_port or _free_port()
        self._values = {
            "python": sys.executable,
            "repo": str(REPO),
            "scratch": str(scratch),
            "here": str(spec.folder),
            "home": str(self.home),
            "port": str(_free_port()),
            "engine_port": str(self.engine_port),
        }
        self._values["engine"] = " ".join(self.engine_command())
        self.url = self._fill(spec.url)
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        self.server: subprocess.Popen[bytes] | None = None
        self.engine: subprocess.Popen[bytes] | None = None
        self.http: aiohttp.ClientSession

    def __repr__(self) -> str:
        return f"<Target {self.name} at {self.url}>"

    @property
    def pid(self) -> int:
        """The server's process, or the engine's where there is no server."""
        process = self.server or self.engine
        assert process is not None, "not started"
        return process.pid

    @property
    def engine_mark(self) -> str:
        """Text of the engine's command line that no other process has."""
        return next((part for part in self.engine_command() if part.endswith(".py")), str(STUB))

    def engine_command(self) -> list[str]:
        if self.spec.engine_command:
            return [self._fill(part) for part in self.spec.engine_command]
        options = ["--port", str(self.engine_port), "--home", str(self.home)]
        return [sys.executable, str(STUB), *options, "--boot-s", f"{self.boot_s:g}"]

    def _fill(self, text: str) -> str:
        for key, value in self._values.items():
            text = text.replace("{" + key + "}", value)
        return text

    # -- processes --------------------------------------------------------------------------
    def prepare(self) -> None:
        """An empty home, a new log, a session; the ports must be free.

        Raises:
            TargetFailedError: something still listens on one of its ports after 5 s.
        """
        deadline = time.monotonic() + 5
        while busy := [p for p in (self.engine_port, _port_of(self.url)) if _listens(p)]:
            if time.monotonic() > deadline:
                raise TargetFailedError(f"port {busy[0]} is in use by another process")
            time.sleep(0.05)
        shutil.rmtree(self.home, ignore_errors=True)
        for folder in HOME_FOLDERS:
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        connector = aiohttp.TCPConnector(limit=0)
        self.http = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20)

    def _spawn(self, command: list[str], cwd: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as sink:
            try:
                return subprocess.Popen(
                    command,
                    cwd=cwd,
                    env={**os.environ, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    start_new_session=True,
                )
            except OSError as error:
                raise TargetFailedError(f"{command[0]} cannot be started: {error}") from error

    def start_engine(self) -> None:
        self.engine = self._spawn(self.engine_command(), str(self.scratch), {})

    def start_server(self) -> None:
        if self.spec.start:
            env = {key: self._fill(value) for key, value in self.spec.env.items()} | self.extra_env
            command = [self._fill(part) for part in self.spec.start]
            self.server = self._spawn(command, self._fill(self.spec.cwd), env)

    def launch(self) -> None:
        """Start what there is to start, without waiting for it."""
        if self.spec.engine == "external":
            self.start_engine()
        self.start_server()

    async def wait_ready(self, timeout_s: float = 60) -> None:
        """Until the server says that it is ready.

        Raises:
            TargetFailedError: it ended, or it is not ready in time.
        """
        await self._wait(self.url + self.spec.ready, timeout_s)

    async def _wait(self, url: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        brief = aiohttp.ClientTimeout(2)
        while time.monotonic() < deadline:
            for process in (self.server, self.engine):
                if process is not None and process.poll() is not None:
                    raise TargetFailedError(f"ended with {process.returncode}: {self.last_line()}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.http.get(url, timeout=brief) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(POLL_S)
        raise TargetFailedError(f"{url} is not ready after {timeout_s:g} s: {self.last_line()}")

    def last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1].strip()[:200] if lines else 'nothing logged'} (log: {self.log})"

    async def stop(self) -> None:
        if hasattr(self, "http"):
            await self.http.close()
        for process in (self.server, self.engine):
            if process is not None:
                kill(process.pid)
                process.wait()
        # An engine whose server died before us is in no tree of ours; only its home tells it.
        for orphan in using(self.home) if self.server or self.engine else ():
            kill(orphan)
        self.server = self.engine = None
        shutil.rmtree(self.home, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.runs.rmdir()

    async def __aenter__(self) -> Self:
        try:
            self.prepare()
            self.launch()
            await self.wait_ready()
            await self._wait(self.engine_url + "/system_stats", 60)
            for _ in range(3):
                await self.run(noise_graph(64), timeout_s=30)
        except LOST as error:
            await self.stop()
            raise TargetFailedError(f"first request: {error!r}: {self.last_line()}") from error
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- requests ---------------------------------------------------------------------------
    async def post(self, path: str, body: bytes, timeout_s: float = 60) -> Answer:
        began = time.perf_counter()
        async with self.http.post(
            self.url + path,
            # aiohttp reads a file in threads: dear for small bodies, needed for large ones.
            data=io.BytesIO(body) if len(body) > LARGE_BODY else body,
            headers={"content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(timeout_s),
        ) as answer:
            content = await answer.read()
        return Answer(answer.status, content, time.perf_counter() - began)

    async def run(self, graph: Graph, timeout_s: float = 60) -> Answer:
        """Have the engine run a graph, by way of the server.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError: no answer; see LOST.
        """
        if self.shape == "direct":
            return await self._run_direct(graph, timeout_s)
        shape = SHAPES[self.shape]
        return await self.post(shape.path, json.dumps(shape.body(graph)).encode(), timeout_s)

    async def attempt(self, graph: Graph, timeout_s: float = 60) -> tuple[Answer, str | None]:
        """As `run`, with a short name of what went wrong in place of exceptions."""
        try:
            answer = await self.run(graph, timeout_s)
        except LOST as error:
            return Answer(0, b"", 0.0), type(error).__name__
        return answer, fault(self.shape, answer)

    async def _run_direct(self, graph: Graph, timeout_s: float) -> Answer:
        began, client = time.perf_counter(), uuid.uuid4().hex
        output: dict[str, str] = {}
        async with asyncio.timeout(timeout_s):
            async with self.http.ws_connect(f"{self.url}/ws?clientId={client}") as events:
                prompt = {"prompt": graph, "client_id": client}
                async with self.http.post(f"{self.url}/prompt", json=prompt) as answer:
                    prompt_id = (await answer.json())["prompt_id"]
                async for message in events:
                    event = message.json()
                    if event["type"] == "executed":
                        output = event["data"]["output"]["images"][0]
                    ended = event["type"] in ("execution_success", "execution_error")
                    if ended and event["data"]["prompt_id"] == prompt_id:
                        break
            async with self.http.get(f"{self.url}/view", params=output) as found:
                data = base64.b64encode(await found.read())
        return Answer(found.status, data, time.perf_counter() - began)

    # -- the engine, asked by the bench -----------------------------------------------------
    async def set_delay(self, delay_ms: float) -> None:
        """What each prompt takes from now on; a dead engine shows in the requests that follow."""
        url, body = f"{self.engine_url}/bench/config", {"delay_ms": delay_ms}
        with contextlib.suppress(*LOST):
            async with self.http.post(url, json=body) as answer:
                await answer.read()

    async def engine_ms(self) -> list[float]:
        """What the engine needed for each prompt since the last call; none of a real one."""
        with contextlib.suppress(*LOST):
            async with self.http.get(f"{self.engine_url}/bench/timings") as answer:
                taken: list[float] = await answer.json() if answer.status == 200 else []
                return taken
        return []
