"""The engine's process: start, log pump, exit watch, clean end. The only place that starts one.

Threads do the waiting, so that a process can be started before the event loop and the imports it
needs: the engine boots while the server still loads its own code.
"""

from __future__ import annotations

import collections
import contextlib
import io
import os
import signal
import socket
import subprocess
import threading
import time
import weakref
from typing import TYPE_CHECKING

from handler.engine.lines import EngineLines
from handler.errors import BootFailed
from handler.masking import masked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG_KEPT_LINES = 500
BOOT_KEPT_LINES = 20_000
LOG_TAIL_LINES = 60
LONGEST_LINE = 4000  # characters; a node may raise megabytes
TERMINATE_GRACE_S = 3.0
# Holds the read end of a pipe whose write end only the server has: when the server is gone, even
# by kill -9, the pipe closes and the engine's whole process group is killed. (No `--` before the
# group: dash, Debian's /bin/sh, takes it for a number.)
WATCHDOG = 'read _ <&0; kill -KILL "-$1" 2>/dev/null'


def check_port_free(port: int) -> None:
    """Make sure that nobody listens on the engine's port.

    Raises:
        BootFailed: another program does. It is never taken for our engine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BootFailed(
                f"port {port} of 127.0.0.1 is already taken: {error.strerror}",
                hint="end the program that listens there, or set COMFYUI_PORT_HOST",
            ) from error


class EngineProcess:
    """A started engine. `on_exit` may be set at any time and is called once, from a thread."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        """Start it.

        Raises:
            BootFailed: the command cannot be run.
        """
        self.command = command
        self.started_at = time.monotonic()
        self.lines = EngineLines()
        # Every traceback of a boot with many node packs, until `booted`.
        self.tail: collections.deque[str] = collections.deque(maxlen=BOOT_KEPT_LINES)
        self._tail_lock = threading.Lock()
        self._exited = threading.Event()
        self._lock = threading.Lock()
        self._on_exit: Callable[[int], None] | None = None
        try:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise BootFailed(
                f"the engine's command cannot be run: {error}",
                hint="check CMD, COMFY_PYTHON and COMFY_HOME",
                blame="image",
            ) from error
        self._pump = threading.Thread(target=self._pump_log, name="engine-log", daemon=True)
        try:
            self._watchdog = _watch_over(self._process.pid)
            self._pump.start()
            threading.Thread(target=self._wait, name="engine-exit", daemon=True).start()
        except (OSError, RuntimeError) as error:
            # An engine that nobody watches would outlive us.
            self.kill()
            self._process.wait()
            raise BootFailed(
                f"the engine cannot be watched over: {error}",
                hint="this machine has no room for another process or thread",
                retryable=True,
            ) from error

    def __repr__(self) -> str:
        state = "running" if self.alive else self.describe_exit()
        return f"<EngineProcess pid={self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self._exited.is_set()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def log_tail(self) -> list[str]:
        """Give the last lines it printed, oldest first."""
        return self.log_lines()[-LOG_TAIL_LINES:]

    def log_lines(self) -> list[str]:
        """Give the lines that are kept, oldest first: those of the whole boot until `booted`."""
        with self._tail_lock:
            return list(self.tail)

    def booted(self) -> None:
        """Note that its boot has been looked at: from now on a tail is enough."""
        with self._tail_lock:
            self.tail = collections.deque(self.tail, maxlen=LOG_KEPT_LINES)

    def describe_exit(self) -> str:
        """Say in words how it ended."""
        code = self.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exited with code {code}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"was killed by {name}" + (" (out of memory?)" if code == -9 else "")
        return f"was killed by signal {-code}"

    def watch(self, on_exit: Callable[[int], None]) -> None:
        """Have `on_exit(code)` called at the end, from a thread; at once if it is over."""
        with self._lock:
            self._on_exit = on_exit
            over = self._exited.is_set()
        if over:
            on_exit(self._process.returncode)

    def stop(self, grace_s: float = TERMINATE_GRACE_S) -> None:
        """End the whole process group: SIGTERM, then SIGKILL. Blocks until it is gone."""
        self._signal(signal.SIGTERM)
        if not self._exited.wait(grace_s):
            self._signal(signal.SIGKILL)
            self._exited.wait(10)
        # Children that outlived the engine's own process, too.
        self._signal(signal.SIGKILL)
        self._dismiss_watchdog()

    def kill(self) -> None:
        """End the whole process group now."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _pump_log(self) -> None:
        assert self._process.stdout is not None
        overwritten = False
        # Line ends are kept: a progress bar ends each of its states with a carriage return.
        with io.TextIOWrapper(
            self._process.stdout, encoding="utf-8", errors="replace", newline=""
        ) as lines:
            for raw in lines:
                # Of a graph that it refuses ComfyUI prints values as they came.
                line = masked(raw.rstrip()[:LONGEST_LINE])
                if not line:
                    overwritten = overwritten and raw == "\r"
                    continue
                with self._tail_lock:
                    if overwritten:  # as a terminal shows it: the bar's last state alone is kept
                        self.tail.pop()
                    self.tail.append(line)
                overwritten = raw.endswith("\r")
                self.lines.tell(line, passing=overwritten)

    def _wait(self) -> None:
        code = self._process.wait()
        # A grandchild may hold the pipe open; the tail that matters is there by then.
        self._pump.join(0.2)
        with self._lock:
            self._exited.set()
            on_exit = self._on_exit
        if on_exit is not None:
            on_exit(code)

    def _dismiss_watchdog(self) -> None:
        # Killed before its pipe closes: by then the group's number may be somebody else's.
        self._watchdog.kill()
        self._watchdog.wait()
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()


# A child that is forked and runs on as we do, as RunPod's SDK has one, would hold the pipe open.
_WATCHDOGS: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def _let_go() -> None:
    for watchdog in list(_WATCHDOGS):
        if watchdog.stdin is not None:
            watchdog.stdin.close()


os.register_at_fork(after_in_child=_let_go)


def _watch_over(pid: int) -> subprocess.Popen[bytes]:
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "comfyfn-watchdog", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _WATCHDOGS.add(watchdog)
    return watchdog
