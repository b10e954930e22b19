"""A TCP proxy before an engine, which can cut, freeze and refuse WebSocket connections."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes bytes to and fro; what a connection is, its first bytes tell.

    Attributes:
        frozen: what the engine sends over WebSockets is swallowed, pongs too.
        refusing: new WebSocket connections are closed at once.
        sockets: WebSocket connections so far.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.frozen = False
        self.refusing = False
        self.sockets = 0
        self._open: set[socket.socket] = set()
        self._websockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_websockets(self) -> None:
        """Break every WebSocket connection without a word."""
        with self._lock:
            found = list(self._websockets)
        for one in found:
            _shut(one)

    def close(self) -> None:
        """End all."""
        _shut(self._listener)
        self._listener.close()
        with self._lock:
            found = list(self._open)
        for one in found:
            _shut(one)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            far = socket.create_connection(self._target)
            with far:
                with self._lock:
                    self._open |= {near, far}
                try:
                    args = (far, near)
                    back = threading.Thread(target=self._pump_back, args=args, daemon=True)
                    back.start()
                    self._pump_forth(near, far)
                    back.join()
                finally:
                    with self._lock:
                        self._open -= {near, far}
                        self._websockets -= {near, far}

    def _pump_forth(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := near.recv(1 << 16):
                # A kept-alive connection may become a WebSocket after other requests.
                if block.startswith(b"GET /ws"):
                    if self.refusing:
                        break
                    with self._lock:
                        self.sockets += 1
                        self._websockets |= {near, far}
                far.sendall(block)
        _shut(near)
        _shut(far)

    def _pump_back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := far.recv(1 << 16):
                if not (self.frozen and near in self._websockets):
                    near.sendall(block)
        _shut(near)
        _shut(far)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
