"""nginx on 127.0.0.1: files of a folder, at a rate a connection, and a log of what was sent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONF = """
{user} master_process off; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format plain '$status $body_bytes_sent $connection';
  access_log {folder}/access.log plain; root {folder}/www; {rate}
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """One answer, as nginx noted it at its end."""

    status: int
    bytes: int
    connection: int


class Nginx:
    """A server of `folder`/www.

    Args:
        rate: of each connection, as nginx writes it.
        server: more of its configuration.
    """

    def __init__(self, folder: Path, rate: str = "", server: str = "") -> None:
        self.www = folder / "www"
        self.www.mkdir(parents=True)
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        text = CONF.format(
            folder=folder,
            port=self.port,
            rate=f"limit_rate {rate};" if rate else "",
            server=server,
            user="user root;" if os.getuid() == 0 else "",
        )
        (folder / "nginx.conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            ["nginx", "-c", self._folder / "nginx.conf", "-e", self._folder / "error.log"]
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.01)
        raise AssertionError((self._folder / "error.log").read_text())

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End it: by SIGQUIT with what it is sending, by SIGKILL at once."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def sent(self) -> list[Sent]:
        """Give the answers with a body that ended so far, and forget them."""
        log = self._folder / "access.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("")
        found = [Sent(*map(int, line.split())) for line in lines]
        return [one for one in found if one.bytes]


@contextlib.contextmanager
def nginx(folder: Path, rate: str = "", server: str = "") -> Iterator[Nginx]:
    """Run nginx for the time of a block."""
    running = Nginx(folder, rate, server)
    running.start()
    try:
        yield running
    finally:
        running.stop(signal.SIGKILL)
