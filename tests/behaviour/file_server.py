"""A file server on loopback that can hold a download in its middle."""

from __future__ import annotations

import contextlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def png(width: int, height: int, color: tuple[int, int, int] = (10, 200, 30)) -> bytes:
    """Give a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


class FileServer:
    """Serves one picture; under `/slow.png` its second half comes when `go_on` is set."""

    def __init__(self) -> None:
        self.body = png(24, 16)
        self.go_on = threading.Event()
        self.asked = threading.Event()
        outer = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                half = len(outer.body) // 2
                with contextlib.suppress(OSError):
                    self.wfile.write(outer.body[:half])
                    self.wfile.flush()
                    outer.asked.set()
                    if self.path == "/slow.png":
                        outer.go_on.wait(60)
                    self.wfile.write(outer.body[half:])

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
