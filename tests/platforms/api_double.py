"""What doubles of REST APIs have in common: a real server, a record of requests, planned faults."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, detail: str, errors: Any = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    content_type: str
    body: Any


class ApiDouble:
    """A server of its own thread; `handle` answers, `fail` plans faults.

    Attributes:
        seen: every request.
    """

    prefix = ""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._faults: dict[tuple[str, str], Any] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.prefix}"

    @property
    def writes(self) -> list[Seen]:
        """Requests that would change something."""
        return [one for one in self.seen if one.method != "GET"]

    def fail(self, method: str, ending: str, fault: Any) -> None:
        """Answer requests of such a path by a `Refused`, a raw (status, text), or "hang up"."""
        self._faults[method, ending] = fault

    def heal(self) -> None:
        self._faults.clear()

    def problem(self, status: int, detail: str, errors: Any = None) -> dict[str, Any]:
        raise NotImplementedError

    def handle(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def _planned(self, method: str, path: str) -> Any:
        for (verb, ending), fault in self._faults.items():
            if verb == method and path.endswith(ending):
                return fault
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_unused: object) -> None:
                pass

            def _any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0].removeprefix(double.prefix)
                body = json.loads(raw) if raw else None
                kind = self.headers.get("Content-Type") or ""
                double.seen.append(Seen(self.command, path, kind, body))
                fault = double._planned(self.command, path)
                if fault == "hang up":
                    self.close_connection = True
                    return
                if isinstance(fault, tuple):
                    self._answer(fault[0], fault[1].encode(), "text/html")
                    return
                try:
                    if isinstance(fault, Refused):
                        raise fault
                    status, told = double.handle(self.command, path, self.headers, body)
                except Refused as refused:
                    status = refused.status
                    told = double.problem(status, refused.detail, refused.errors)
                kind = "application/json" if status < 400 else "application/problem+json"
                self._answer(status, json.dumps(told).encode(), kind)

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

        return Handler
