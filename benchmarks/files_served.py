"""Large files on loopback: nginx, unthrottled and at a rate a connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = 3
FREE, SLOW = "unthrottled", "30 MB/s a connection"
BLOCK = 64 << 20
START_S = 10
CONF = """
{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; root {folder}/www;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{free}; }}
  server {{ listen 127.0.0.1:{slow}; limit_rate 30m; }}
}}
"""


def names() -> list[str]:
    return [f"m{number}.safetensors" for number in range(FILES)]


def make_files(folder: Path, mib: int) -> None:
    """Write safetensors files: a header, then one tensor of `mib` MiB, noise again and again."""
    folder.mkdir(parents=True)
    size = mib << 20
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"w": tensor}).encode()
    noise = os.urandom(min(BLOCK, size))
    for name in names():
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for at in range(0, size, len(noise)):
                file.write(noise[: size - at])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[dict[str, str]]:
    """Serve `folder`/www for the time of a block; give the two addresses."""
    ports = {FREE: free_port(), SLOW: free_port()}
    # As root, nginx would read as a user that may not look into our folders.
    user = "user root;" if os.getuid() == 0 else ""
    conf = CONF.format(folder=folder, user=user, free=ports[FREE], slow=ports[SLOW])
    (folder / "nginx.conf").write_text(conf)
    command = ["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with subprocess.Popen(command) as process:
        try:
            for port in ports.values():
                _wait_for(port)
            yield {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError("nginx does not start")
