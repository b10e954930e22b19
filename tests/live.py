"""Real servers for tests: `comfyfn serve` as a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).parent.parent
COMFY_HOME = os.environ.get("COMFY_HOME", "")
COMFY_PYTHON = os.environ.get("COMFY_PYTHON", "")
ENGINES = ("embedded", "comfyui") if COMFY_HOME else ("embedded",)
READY_LIMIT_S = {"embedded": 20.0, "comfyui": 120.0}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LiveServer:
    """`comfyfn serve` with an engine of its own, in folders of its own.

    Attributes:
        options: of the command line.
    """

    def __init__(self, home: Path, engine: str = "embedded", **env: str) -> None:
        self.home, self.engine = home, engine
        self.port, self.engine_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        self.input, self.output, self.work = home / "input", home / "output", home / "work"
        self.log = home / "server.log"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PORT": str(self.port),
            "COMFYUI_PORT_HOST": str(self.engine_port),
            "INPUT_DIR": str(self.input),
            "OUTPUT_DIR": str(self.output),
            "WORK_DIR": str(self.work),
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "text",
            **({k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}),
            **_engine_env(engine),
            **env,
        }
        self.options: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> LiveServer:
        """Start it and wait until it takes jobs, or only until its port is open."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local_server.cli", "serve", *self.options],
                cwd=REPO,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self.wait_for("/ready" if ready else "/health", READY_LIMIT_S[self.engine])
        return self

    def wait_for(self, path: str, limit_s: float = 20.0, status: int = 200) -> None:
        """Wait until a GET answers with a status."""
        begun = time.monotonic()
        while time.monotonic() - begun < limit_s:
            with contextlib.suppress(httpx.TransportError):
                if self.get(path).status_code == status:
                    return
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
            time.sleep(0.02)
        raise AssertionError(f"{path} is not {status} after {limit_s} s:\n{self.log.read_text()}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET a path."""
        return httpx.get(self.url + path, timeout=60, trust_env=False, verify=False, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST a JSON body."""
        options.setdefault("timeout", 120)
        return httpx.post(self.url + path, json=body, trust_env=False, verify=False, **options)

    def prompt(self, graph: dict[str, Any], **keys: Any) -> httpx.Response:
        """POST a graph to /prompt."""
        return self.post("/prompt", {"prompt": graph, **keys})

    def engine_pid(self) -> int:
        """The engine's process: the direct child of the server that is no watchdog."""
        assert self.process is not None
        for child in children(self.process.pid):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"comfyfn-watchdog" not in command:
                return child
        raise AssertionError("no engine runs")

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 40.0) -> int:
        """End it and give its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not stop:\n{self.log.read_text()}") from None

    def left_files(self) -> list[Path]:
        """List the files that jobs left behind."""
        roots = (self.input, self.output, self.work)
        return [path for root in roots for path in walk(root)]


def walk(root: Path, suffix: str = "") -> list[Path]:
    """List the files below a folder; unlike rglob, this minds no folder that goes meanwhile."""
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return [path for path in found if path.name.endswith(suffix)]


def _engine_env(engine: str) -> dict[str, str]:
    if engine == "embedded":
        return {"ENGINE": "embedded", "COMFYFN_TEST_FAULTS": "true"}
    env = {"ENGINE": "comfyui", "COMFY_HOME": COMFY_HOME, "ALLOW_CPU": "true"}
    return {**env, "COMFY_PYTHON": COMFY_PYTHON} if COMFY_PYTHON else env


def children(pid: int) -> list[int]:
    """List the direct children of a process."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def live_server(home: Path, engine: str = "embedded", **env: str) -> Iterator[LiveServer]:
    """Run a server for the time of a block."""
    server = LiveServer(home, engine, **env)
    try:
        yield server.start()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def quoted(command: list[str]) -> str:
    """Quote a command for CMD."""
    return shlex.join(command)
