"""Send files over HTTP, streamed from disk, to checked addresses.

The transport is used without httpx's client: that logs whole URLs, and follows redirects by
sending a body again to whoever it is told.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import httpx

from handler.delivery.base import PutFailed, shorter, unreadable
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.inputs.transport import PinnedTransport
from handler.version import VERSION

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from handler.delivery.base import Progress, Whose
    from handler.inputs.address import AddressPolicy
    from handler.transfer.threads import Threads

_BLOCK = 1 << 20
_LONGEST_ANSWER = 64 << 10
_PASSING = frozenset({408, 425, 429})
_FINAL = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: a file from an offset on, or bytes.

    Attributes:
        size: of the file, in bytes.
    """

    path: Path | None = None
    size: int = 0
    start: int = 0
    content: bytes = b""

    @property
    def length(self) -> int:
        """How many bytes go out."""
        return len(self.content) if self.path is None else self.size - self.start


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its body cut at 64 KiB; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        """Whether the request was taken."""
        return 200 <= self.status < 300

    def refusal(
        self, hint: str | None = None, *, words: str | None = None, whose: Whose = "store"
    ) -> PutFailed:
        """Make the fault of an answer that is not good, in the server's words where it is text.

        Args:
            words: the server's, where they are known to stand somewhere in the body.
        """
        passing = self.status in _PASSING or (self.status >= 500 and self.status not in _FINAL)
        why = str(self.status)
        if 300 <= self.status < 400:
            why += f" redirects to {redacted(self.headers.get('location', '(nowhere)'))}"
            hint = hint or "uploads follow no redirects: name the URL that it leads to"
        elif words:
            why += f" {words}"
        elif self.headers.get("content-type", "").startswith(("text/", "application/")):
            why += f" {self.body[:2000].decode(errors='replace')}"
        after = self.headers.get("retry-after", "")
        return PutFailed(
            why,
            passing=passing,
            status=self.status,
            hint=hint,
            whose=whose,
            retry_after_s=float(after) if after.isdecimal() else None,
        )


class HttpPut:
    """Sends requests with a body.

    Args:
        policy: where URLs may lead.
        idle_timeout_s: longest silence of the other side.
        trust: TLS trust; certifi's roots by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        threads: Threads,
        *,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 60.0,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._threads = threads
        self._trust = trust
        self._timeout = {
            "connect": connect_timeout_s,
            "pool": connect_timeout_s,
            "read": idle_timeout_s,
            "write": idle_timeout_s,
        }

    @cached_property
    def _transport(self) -> PinnedTransport:
        # Reading the roots takes some 20 ms, so it waits for the first use.
        trust = self._trust or httpx.create_ssl_context(trust_env=False)
        return PinnedTransport(self._policy, trust)

    async def send(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: Body,
        progress: Progress | None = None,
    ) -> Reply:
        """Send one request and read its answer, whatever it says.

        Raises:
            PutFailed: there was none.
            UrlNotAllowed: by the policy, before anything is dialled.
        """
        request = httpx.Request(
            method,
            url,
            headers={
                "User-Agent": f"comfyfn/{VERSION}",
                "Accept": "*/*",
                **headers,
                "Content-Length": str(body.length),
            },
            content=self._blocks(body, progress),
            extensions={"timeout": self._timeout},
        )
        try:
            response = await self._transport.handle_async_request(request)
            try:
                return Reply(response.status_code, response.headers, await _short(response))
            finally:
                await response.aclose()
        except InputFailed as fault:
            raise PutFailed(fault.message, passing=fault.retryable) from fault
        except httpx.TimeoutException as fault:
            raise PutFailed("it fell silent", passing=True) from fault
        except httpx.TransportError as fault:
            raise _transport_fault(fault) from fault

    async def _blocks(self, body: Body, progress: Progress | None) -> AsyncIterator[bytes]:
        if body.path is None:
            yield body.content
            return
        path, sent = body.path, body.start
        try:
            file = await self._threads.call(lambda: path.open("rb"), dispose=lambda f: f.close())
        except OSError as fault:
            raise unreadable(fault) from fault
        with contextlib.closing(file):
            file.seek(sent)
            # Never past the size that was announced, should the file have grown.
            while sent < body.size:
                block = await self._threads.call(partial(file.read, min(_BLOCK, body.size - sent)))
                if not block:
                    raise shorter(sent, body.size)
                yield block
                sent += len(block)
                if progress is not None:
                    progress(sent)

    async def close(self) -> None:
        """Close what is open."""
        if "_transport" in self.__dict__:
            await self._transport.aclose()


async def _short(response: httpx.Response) -> bytes:
    """Read an answer's body as far as anybody will look at it."""
    read = bytearray()
    async for block in response.aiter_raw():
        read += block
        if len(read) >= _LONGEST_ANSWER:
            break
    return bytes(read)


def _transport_fault(fault: httpx.TransportError) -> PutFailed:
    # By its kind and not its text, which has the address: that would map the network.
    if isinstance(fault, httpx.ConnectError):
        if "CERTIFICATE" in str(fault):
            return PutFailed("its certificate is not trusted", passing=False)
        return PutFailed("it cannot be connected to", passing=True)
    return PutFailed("the connection was lost", passing=True)
