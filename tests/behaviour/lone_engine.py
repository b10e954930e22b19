"""An engine that the test itself starts, beside the server: to attach to, or to be in the way."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from live import COMFY_HOME, COMFY_PYTHON, REPO, alive, free_port


def embedded_command(home: Path, port: int, *more: str) -> list[str]:
    """Give a command for CMD that starts the embedded engine as if it were ComfyUI."""
    folders = []
    for name in ("input", "output", "models"):
        folders += [f"--{name}-directory", str(home / name)]
    return [
        *(sys.executable, "-m", "local_server.engine", "--port", str(port), "--test-faults"),
        *(*folders, "--temp-directory", str(home / "lone"), *more),
    ]


def _comfyui_command(home: Path, port: int) -> list[str]:
    folders = [f for n in ("input", "output", "temp") for f in (f"--{n}-directory", str(home / n))]
    main = str(Path(COMFY_HOME) / "main.py")
    return [
        *(COMFY_PYTHON or sys.executable, main, "--cpu", "--listen", "127.0.0.1"),
        *("--port", str(port), "--disable-auto-launch", *folders),
    ]


class LoneEngine:
    """A running engine on a port of its own."""

    def __init__(self, home: Path, kind: str = "embedded", port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = home
        for name in ("input", "output", "temp", "models"):
            (home / name).mkdir(parents=True, exist_ok=True)
        make = embedded_command if kind == "embedded" else _comfyui_command
        self._command = make(home, self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> LoneEngine:
        """Start it and wait until it answers."""
        with (self.home / "engine.log").open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, cwd=REPO, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        begun = time.monotonic()
        with httpx.Client(verify=False, trust_env=False, timeout=5) as client:
            while time.monotonic() - begun < 120:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{self.url}/system_stats").status_code == 200:
                        return self
                assert alive(self._process.pid), (self.home / "engine.log").read_text()
                time.sleep(0.02)
        raise AssertionError("the engine does not answer")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, 9)
            self._process.wait()
