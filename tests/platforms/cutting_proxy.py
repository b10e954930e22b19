"""A TCP proxy on loopback that cuts connections amid an answer, as told."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CuttingProxy:
    """Passes everything on.

    Attributes:
        cuts: parts of request lines, each with how many bytes of the answer get through; each is
            used once.
        requests: the heads that came, in order.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.cuts: list[tuple[str, int]] = []
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                left: list[int] = []
                self._start(self._up, client, server, left)
                self._start(self._down, client, server, left)

    def _up(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                head = data.split(b"\r\n\r\n")[0].decode("latin-1")
                if " HTTP/1.1" in head.split("\r\n")[0]:
                    self.requests.append(head)
                    for cut in self.cuts:
                        if cut[0] in head.split("\r\n")[0]:
                            self.cuts.remove(cut)
                            left[:] = [cut[1]]
                            break
                server.sendall(data)
        self._close(client, server)

    def _down(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if left:
                    data = data[: left[0]]
                    left[0] -= len(data)
                client.sendall(data)
                if left and left[0] <= 0:
                    break
        self._close(client, server)

    @staticmethod
    def _close(*sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all."""
        self._close(self._listener, *self._open)
        for one in (self._listener, *self._open):
            one.close()
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def cutting(port: int) -> Iterator[CuttingProxy]:
    """Run a proxy to a port for the time of a block."""
    proxy = CuttingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
