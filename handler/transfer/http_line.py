"""One HTTP connection to a checked address: a request out, a response in, bytes into a buffer.

`http.client` reads and writes the protocol; the socket is ours, so that it goes to the address
that the policy checked, and so that any thread can end a read that blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import zlib
from typing import TYPE_CHECKING, Literal

from handler.errors import InputFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from handler.inputs.address import AddressPolicy

Origin = tuple[str, str, int]
"""Scheme, host and port."""

PORTS = {"http": 80, "https": 443}
# TLS gives 16 KiB at a time: gathered, so that the file is not written in crumbs.
_GATHERED = 256 << 10
_GATHERING_S = 1.0
_GZIP = b"\x1f\x8b"


def origin(url: httpx.URL) -> Origin:
    """Give scheme, host and port of a URL; the host as DNS and certificates have it, in ASCII."""
    host = url.raw_host.decode("ascii").strip("[]")
    return url.scheme, host, url.port or PORTS[url.scheme]


class Line:
    """A connection. Its calls block, and belong to one thread at a time; `abort` to any."""

    def __init__(self, sock: socket.socket, url: httpx.URL, timeout_s: float) -> None:
        self.origin = origin(url)
        self.used = False
        self._response: http.client.HTTPResponse | None = None
        self._sock = sock
        sock.settimeout(timeout_s)
        self._client = http.client.HTTPConnection(self.origin[1], self.origin[2])
        # Else http.client would dial anew by itself, past the policy.
        self._client.auto_open = 0
        self._client.sock = sock

    def secure(self, trust: ssl.SSLContext) -> None:
        """Speak TLS from here on."""
        # Kept before the handshake, so that `abort` reaches it while a server draws that out.
        secured = trust.wrap_socket(
            self._sock, server_hostname=self.origin[1], do_handshake_on_connect=False
        )
        self._client.sock = self._sock = secured
        secured.do_handshake()

    def ask(self, url: httpx.URL, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send a GET and read the head of the answer."""
        self._client.putrequest(
            "GET", url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True
        )
        self._client.putheader("Host", url.netloc.decode("ascii"))
        for name, value in headers.items():
            self._client.putheader(name, value.encode("latin-1"))
        self._client.endheaders()
        self._response = self._client.getresponse()
        self.used = True
        return self._response

    @property
    def reusable(self) -> bool:
        """Whether another request can go out, once the response is read to its end."""
        return self._client.sock is not None

    @property
    def encrypted(self) -> bool:
        """Whether bytes come in TLS records."""
        return isinstance(self._sock, ssl.SSLSocket)

    def abort(self) -> None:
        """Wake whoever reads; the thread that does closes.

        The plain socket's `shutdown`, on purpose: that of TLS forgets the encryption, and the
        reader would take what is still buffered for the file.
        """
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._response is not None:
            # It holds the socket open, and http.client forgets one that is the connection's last.
            self._response.close()
        self._client.close()
        self._sock.close()


async def connected(
    policy: AddressPolicy, url: httpx.URL, connect_timeout_s: float, idle_timeout_s: float
) -> Line:
    """Connect to the first address of a URL's host that takes it.

    Raises:
        UrlNotAllowed, InputFailed: by the policy, before anything is dialled; InputFailed
            (retryable) when no address can be reached.
    """
    _, host, port = origin(url)
    fault: OSError = OSError("no address")
    for address in await policy.resolve(host, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(connect_timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Line(sock, url, idle_timeout_s)
        except OSError as error:  # a timeout is one
            sock.close()
            fault = error
        except BaseException:
            sock.close()
            raise
    # By its number, since the loop's text has the address: that would map the network for a caller.
    why = os.strerror(fault.errno) if fault.errno else "no connection in time"
    raise passing(f"cannot connect to {host}:{port}: {why}") from fault


class LineBody:
    """The body of a response: of known length, in chunks, or until the connection ends.

    Args:
        spare: takes the line back when all is read and another request can go out on it.
    """

    def __init__(
        self, line: Line, response: http.client.HTTPResponse, spare: Callable[[Line], None]
    ) -> None:
        self._line = line
        self._response = response
        self._spare = spare
        self._left = None if response.chunked else response.length
        self._lock = threading.Lock()
        self._state: Literal["idle", "reading", "ending", "closed"] = "idle"

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as bytes are at hand; documented at the port."""
        with self._lock:
            if self._state != "idle":
                raise passing("the transfer was ended")
            self._state = "reading"
        try:
            return self._read(buffer)
        except TimeoutError as fault:
            raise passing("the source fell silent") from fault
        except (OSError, http.client.HTTPException, ValueError) as fault:
            raise passing("the connection was lost") from fault
        finally:
            self._done_reading()

    def _read(self, buffer: memoryview) -> int:
        if self._left == 0:
            return 0
        if self._left is None:
            # Not its readinto: that waits for a whole buffer, on a slow line longer than the
            # watch does, and what came until then would be lost.
            data = self._response.read1(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        # Past the response's own readinto, which fills the whole buffer before it returns and
        # took a third more CPU on loopback for that.
        buffer = buffer[: min(len(buffer), self._left)]
        stream = self._response.fp
        count = stream.readinto1(buffer)
        until = time.monotonic() + _GATHERING_S
        while self._line.encrypted and 0 < count < min(len(buffer), _GATHERED):
            if time.monotonic() > until:
                break  # a slow line: what came must be seen, or it passes for silence
            more = stream.readinto1(buffer[count:])
            if not more:
                break
            count += more
        self._left -= count
        return count

    def close(self) -> None:
        """End it; documented at the port."""
        with self._lock:
            if self._state == "reading":
                self._state = "ending"
                self._line.abort()
            elif self._state == "idle":
                self._state = "closed"
                self._release()

    def _done_reading(self) -> None:
        with self._lock:
            if self._state == "ending":
                self._state = "closed"
                self._release()
            else:
                self._state = "idle"

    def _release(self) -> None:
        whole = self._left == 0 and not self._response.will_close
        self._response.close()
        if whole and self._line.reusable:
            self._spare(self._line)
        else:
            self._line.close()


class UnpackedBody:
    """A body that was packed although it was asked not to be: some hosts keep files so."""

    def __init__(self, packed: LineBody) -> None:
        self._packed = packed
        self._unpacker = _new_unpacker()
        self._raw = memoryview(bytearray(_GATHERED))
        self._tail = b""

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as bytes are at hand; documented at the port."""
        while self._more():
            try:
                out = self._unpacker.decompress(self._tail, len(buffer))
            except zlib.error as fault:
                raise InputFailed("what came is said to be packed, and does not unpack") from fault
            self._tail = self._unpacker.unconsumed_tail
            if out:
                buffer[: len(out)] = out
                return len(out)
        return 0

    def close(self) -> None:
        """End it; documented at the port."""
        self._packed.close()

    def _more(self) -> bool:
        """Have packed bytes at hand; False at the end of the last of the packed runs."""
        if self._unpacker.eof:
            # gzip may be several runs, one after the other, as tools that pack in parallel make.
            start = self._unpacker.unused_data
            while len(start) < len(_GZIP) and (count := self._packed.readinto(self._raw)):
                start += self._raw[:count]
            if not start.startswith(_GZIP):
                return False
            self._unpacker, self._tail = _new_unpacker(), start
        elif not self._tail:
            count = self._packed.readinto(self._raw)
            if not count:
                raise passing("the connection was lost")
            self._tail = bytes(self._raw[:count])
        return True


def _new_unpacker() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip's or zlib's head


def passing(message: str, **details: object) -> InputFailed:
    """Make a fault that the next try may not meet."""
    return InputFailed(message, blame="platform", retryable=True, details=details or None)
