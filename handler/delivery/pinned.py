"""Libraries that bring their own HTTP, held to the address that the policy checked.

Between the check of a caller's endpoint and the library's own look-up a DNS server could change
its answer. So the library is given no choice: it gets a connection to that address, with the
name kept for `Host` and for TLS, and to no other host.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

_PORTS = {"http": 80, "https": 443}


def dialled(addresses: Sequence[str]) -> str:
    """Choose among the addresses of a host; many containers have no way out over IPv6."""
    return next((address for address in addresses if ":" not in address), addresses[0])


class Lines:
    """Connections that can be cut amid a request.

    The libraries know no longest time of one: a server that says a byte a minute would hold a
    thread for ever.
    """

    def __init__(self) -> None:
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._is_cut = False

    def pools(self) -> dict[str, Any]:
        """Give urllib3's pools, by scheme, with connections that are known here."""
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

        lines = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                lines._add(self)

            def close(self) -> None:
                lines._open.discard(self)
                super().close()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                lines._add(self)

            def close(self) -> None:
                lines._open.discard(self)
                super().close()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}

    def _add(self, connection: Any) -> None:
        with self._lock:
            self._open.add(connection)
            cut = self._is_cut
        if cut:
            _hang_up(connection)

    def cut(self) -> None:
        """Hang up on every connection, and on those that come."""
        with self._lock:
            self._is_cut = True
            found = list(self._open)
        for connection in found:
            _hang_up(connection)


def _hang_up(connection: Any) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            # Of the socket below TLS: whoever reads is woken, and sees the end.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class PinnedSender:
    """A handler of botocore's `before-send`: it answers requests in place of its session.

    Close it with its client, which knows nothing of its connections: requests under way fail.
    """

    def __init__(
        self, endpoint: str, address: str, timeout_s: float, trust: ssl.SSLContext | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            timeout_s: longest silence of the other side.
            trust: TLS trust, of this sender alone; certifi's roots by default.
        """
        self._lines = Lines()
        self._pool = _pool(self._lines, endpoint, address, timeout_s, trust)
        self._host, self._place = _host(endpoint), _place(endpoint)

    def __call__(self, request: Any, **_told: Any) -> Any:
        """Send a request. Blocking."""
        import urllib3
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import HTTPClientError

        parts = urlsplit(request.url)
        if _place(request.url) != self._place:
            raise HTTPClientError(error="the store leads to another host")
        # Bytes in this library's headers are of before; urllib3 takes texts.
        headers: dict[str, Any] = {n: _text(value) for n, value in request.headers.items()}
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        try:
            answer = self._pool.urlopen(
                request.method,
                target,
                body=request.body,
                headers={**headers, "Host": self._host},
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
            response = AWSResponse(request.url, answer.status, answer.headers, answer)
            _ = response.content  # read to its end, so that the connection can be used again
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise HTTPClientError(error=type(fault).__name__) from fault
        return response

    def close(self) -> None:
        """Close the connections, also those of requests under way."""
        self._lines.cut()
        self._pool.close()


def pinned_session(endpoint: str, address: str, lines: Lines | None = None) -> Any:
    """Make a session of requests that knows one origin, for Azure's library.

    Args:
        lines: its connections.
    """
    import requests
    from requests.adapters import HTTPAdapter

    parts = urlsplit(endpoint)

    class Pinned(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, server_hostname=parts.hostname, **options)
            manager: Any = self.poolmanager
            manager.pool_classes_by_scheme = (lines or Lines()).pools()

        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            pinned: Any = request.copy()
            here = urlsplit(str(pinned.url))
            port = here.port or _PORTS[here.scheme]
            pinned.url = here._replace(netloc=f"{_bracketed(address)}:{port}").geturl()
            pinned.headers["Host"] = _host(endpoint)
            return super().send(pinned, *args, **options)

    session = requests.Session()
    session.trust_env = False
    session.adapters.clear()
    session.mount(f"{parts.scheme}://{parts.netloc}", Pinned())
    return session


def _pool(
    lines: Lines, endpoint: str, address: str, timeout_s: float, trust: ssl.SSLContext | None
) -> Any:
    import urllib3

    parts, pools = urlsplit(endpoint), lines.pools()
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=10.0, read=timeout_s),
        "maxsize": 8,
    }
    port = parts.port or _PORTS[parts.scheme]
    if parts.scheme == "http":
        return pools["http"](_bracketed(address), port, **options)
    trust = trust or httpx.create_ssl_context(trust_env=False)
    return pools["https"](
        _bracketed(address), port, ssl_context=trust, server_hostname=parts.hostname, **options
    )


def _place(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _host(url: str) -> str:
    """Give the header: signatures are made over it without a port that goes without saying."""
    scheme, name, port = _place(url)
    host = _bracketed(name or "")
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
