"""A small file server on 127.0.0.1: where the inputs of the contract's tests come from."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers; 401 to who does not send the headers that it wants."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    wants: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FileServer:
    """Pages by path, and the requests that came.

    Attributes:
        asked: path and headers of every request, in order.
    """

    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(
        self,
        path: str,
        body: bytes,
        mime: str,
        status: int = 200,
        wants: dict[str, str] | None = None,
    ) -> str:
        """Serve a file, to who sends the headers that it wants, and give its URL."""
        self.pages[path] = Page(status, {"Content-Type": mime}, body, wants or {})
        return self.url(path)

    def redirect(self, path: str, location: str) -> str:
        """Lead a path elsewhere and give its URL."""
        self.pages[path] = Page(302, {"Location": location})
        return self.url(path)

    def url(self, path: str, userinfo: str = "") -> str:
        """Give the URL of a path."""
        return f"http://{userinfo}127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """Run a file server for the time of a block."""
    files = FileServer(0)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.asked.append((self.path, dict(self.headers)))
            missing = Page(404, {"Content-Type": "text/plain"}, b"no such file")
            page = files.pages.get(self.path.partition("?")[0], missing)
            if any(self.headers.get(name) != value for name, value in page.wants.items()):
                page = Page(401, {"Content-Type": "text/plain"}, b"who are you?")
            self.send_response(page.status)
            for name, value in {**page.headers, "Content-Length": str(len(page.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        files.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield files
        finally:
            http.shutdown()
            thread.join()


class Trap:
    """A port that must not be dialled; it knows whether it was."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self._socket.setblocking(False)
        self.host = host
        self.port = int(self._socket.getsockname()[1])

    def dialled(self) -> bool:
        """Whether somebody connected since the last call; the kernel keeps it for us."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
