"""A file server on loopback that gives files in parts, as slowly as told, and counts its bytes."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 64 << 10


class RangeServer:
    """Files by path.

    Attributes:
        bytes_per_s: of each connection; 0 for no limit.
        served: bytes of bodies that were sent, by path.
        asked: how many requests came.
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self.bytes_per_s = bytes_per_s
        self.files: dict[str, bytes] = {}
        self.served: dict[str, int] = {}
        self.asked = 0
        outer = self

        class Page(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked += 1
                body = outer.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                start = int(span[1]) if span else 0
                end = min(len(body), int(span[2]) + 1) if span and span[2] else len(body)
                self.send_response(206 if span else 200)
                self.send_header("ETag", '"one"')
                self.send_header("Content-Type", "application/octet-stream")
                if span:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
                self.send_header("Content-Length", str(end - start))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.pass_on(body[start:end])

            def pass_on(self, data: bytes) -> None:
                for at in range(0, len(data), _BLOCK):
                    block = data[at : at + _BLOCK]
                    if outer.bytes_per_s:
                        time.sleep(len(block) / outer.bytes_per_s)
                    self.wfile.write(block)
                    outer.served[self.path] = outer.served.get(self.path, 0) + len(block)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self._server.daemon_threads = True
        self._url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def put(self, path: str, body: bytes) -> str:
        """Serve a file and give its URL."""
        self.files[path] = body
        return self.url(path)

    def url(self, path: str) -> str:
        """Give the URL of a path."""
        return self._url + path

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def range_server(bytes_per_s: float = 0.0) -> Iterator[RangeServer]:
    """Serve for the time of a block."""
    server = RangeServer(bytes_per_s)
    try:
        yield server
    finally:
        server.close()
