"""One POST of a letter: signed anew, to a checked address, over before its time is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import httpx

from handler.errors import HandlerError, InputFailed, InvalidPayload, UrlNotAllowed
from handler.inputs.transport import PinnedTransport
from handler.outbox.signing import header_id, signature, signing_key, streamed_signature
from handler.outbox.verdict import Reply
from handler.version import VERSION

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from handler.inputs.address import AddressPolicy
    from handler.outbox.records import Opened, Posted

log = logging.getLogger("comfyfn.outbox")

_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 8192
_IN_MEMORY = 1 << 20
_CHUNK = 1 << 18
# A try of a large body gets so much more time: half a MiB a second.
_SLOWEST = 1 << 19
_ANSWER_BYTES = 4096
_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and the connection it came over.

    Attributes:
        response: still open; None where nothing came.
    """

    reply: Reply
    response: httpx.Response | None = None

    async def close(self) -> None:
        """Read the little that a receiver may say, so that it can end well, and hang up."""
        if self.response is None:
            return
        with contextlib.suppress(httpx.HTTPError, httpx.StreamError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                size = 0
                async for chunk in self.response.aiter_raw():
                    size += len(chunk)
                    if size > _ANSWER_BYTES:
                        break
        with contextlib.suppress(httpx.HTTPError):
            await self.response.aclose()


class Sender:
    """Sends letters.

    Args:
        policy: where they may go.
        secret: WEBHOOK_SECRET; "" for none.
        timeout_s: for one try, from its start to the answer's headers.
        connect_timeout_s: of it, for a connection to one address.
        verify: TLS trust; certifi's roots by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        secret: str = "",
        timeout_s: float = 20.0,
        connect_timeout_s: float = 10.0,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._key = signing_key(secret)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._given_verify = verify
        self._told_unsigned = False

    def __repr__(self) -> str:
        return f"<Sender {'signing' if self._key else 'unsigned'}>"

    @cached_property
    def _transport(self) -> PinnedTransport:
        # Reading the roots takes some 20 ms, so it waits for the first letter.
        verify = self._given_verify or httpx.create_ssl_context(trust_env=False)
        return PinnedTransport(self._policy, verify)

    async def close(self) -> None:
        """Close what is open."""
        if "_transport" in self.__dict__:
            await self._transport.aclose()

    async def check(self, url: str) -> None:
        """Find out now whether a URL can be sent to at all.

        Raises:
            InvalidPayload: it is no http(s) URL, or its host does not exist.
            UrlNotAllowed: the address policy refuses it.
        """
        parsed = parsed_url(url)
        host = parsed.raw_host.decode("ascii")
        try:
            await self._policy.resolve(host, parsed.port or _PORTS[parsed.scheme])
        except InputFailed as fault:
            if not fault.retryable:  # a DNS server that is silent now may answer when it matters
                raise InvalidPayload(f"webhook: {fault.message}") from fault

    async def send(self, letter: Posted, opened: Opened) -> Answer:
        """Send a letter once; close the answer.

        Whatever goes wrong is in the reply: nothing is raised but cancellation.
        """
        limit_s = self._timeout_s + letter.bytes / _SLOWEST
        try:
            async with asyncio.timeout(limit_s):
                request = await self._request(letter, opened)
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            return Answer(Reply(None, f"no answer within {limit_s:.3g} s"))
        except UrlNotAllowed as fault:
            return Answer(Reply(None, fault.message, hopeless=True))
        except HandlerError as fault:
            return Answer(Reply(None, fault.message))
        except (httpx.TransportError, OSError) as fault:
            return Answer(Reply(None, _said(fault)))
        except (httpx.InvalidURL, ValueError) as fault:
            return Answer(Reply(None, f"it cannot be sent: {type(fault).__name__}", hopeless=True))
        said = f"{response.status_code} {response.reason_phrase}".strip()
        if response.is_redirect:
            said += " (redirects are not followed)"
        reply = Reply(response.status_code, said, response.headers.get("retry-after", ""))
        return Answer(reply, response)

    async def _request(self, letter: Posted, opened: Opened) -> httpx.Request:
        url = parsed_url(opened.url)
        headers = httpx.Headers(dict(opened.headers))
        name, when = header_id(letter.message_id), int(time.time())
        headers.update({"webhook-id": name, "webhook-timestamp": str(when)})
        key = self._key_of(letter, opened)
        signed, body = await asyncio.to_thread(_read, key, name, when, opened)
        if signed:
            headers["webhook-signature"] = signed
        elif letter.signed:
            self._tell_unsigned()
            headers["webhook-unsigned"] = "true"
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(opened.bytes)
        headers["User-Agent"] = f"comfyfn/{VERSION}"
        headers["Accept-Encoding"] = "identity"
        timeout = httpx.Timeout(
            self._timeout_s, connect=min(self._connect_timeout_s, self._timeout_s)
        )
        request = httpx.Request(
            "POST",
            url.copy_with(username="", password="", fragment=None),
            headers=headers,
            content=_streamed(opened) if body is None else body,
            extensions={"timeout": timeout.as_dict()},
        )
        if url.userinfo:
            basic = httpx.BasicAuth(url.username, url.password)
            request = next(basic.auth_flow(request))
        return request

    def _key_of(self, letter: Posted, opened: Opened) -> bytes:
        """Give the key to sign with; empty for none: nothing must be signed with that."""
        if not letter.signed:
            return b""
        return signing_key(opened.secret) if opened.secret is not None else self._key

    def _tell_unsigned(self) -> None:
        if not self._told_unsigned:
            self._told_unsigned = True
            log.warning("WEBHOOK_SECRET is not set: webhooks are sent unsigned")


def parsed_url(url: str) -> httpx.URL:
    """Parse a URL.

    Raises:
        InvalidPayload: it is no http(s) URL, or longer than 8192 characters.
    """
    try:
        parsed = httpx.URL(url) if len(url) <= _LONGEST_URL else httpx.URL("")
        host = parsed.host
    except (httpx.InvalidURL, ValueError) as fault:
        raise InvalidPayload("the webhook's URL is not valid") from fault
    # httpx escapes what no host may have in it, and would ask DNS for that.
    if parsed.scheme not in _PORTS or not host or "%" in host:
        raise InvalidPayload("the webhook's URL is no http(s) URL")
    return parsed


def _read(key: bytes, name: str, when: int, opened: Opened) -> tuple[str, bytes | None]:
    """Give the signature, "" without a key, and the body, None where it is to be streamed."""
    if opened.bytes <= _IN_MEMORY or isinstance(opened.body, bytes):
        body = b"".join(_chunks(opened, _IN_MEMORY))
        return (signature(key, name, when, body) if key else ""), body
    if not key:
        return "", None
    return streamed_signature(key, name, when, _chunks(opened, _IN_MEMORY)), None


def _chunks(opened: Opened, size: int) -> Iterator[bytes]:
    """Give the body in pieces.

    Raises:
        OSError: its file is gone, or shorter than it was.
    """
    if isinstance(opened.body, bytes):
        yield opened.body
        return
    left = opened.bytes
    with opened.body.open("rb") as file:
        file.seek(opened.offset)
        while left:
            chunk = file.read(min(size, left))
            if not chunk:
                raise OSError(f"{opened.body.name} was cut short")
            left -= len(chunk)
            yield chunk


async def _streamed(opened: Opened) -> AsyncIterator[bytes]:
    chunks = _chunks(opened, _CHUNK)
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk


def _said(fault: Exception) -> str:
    text = str(fault) or _SAYINGS.get(type(fault), "")
    return f"{type(fault).__name__}: {text}"[:300] if text else type(fault).__name__


_SAYINGS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "no connection in time",
    httpx.ReadTimeout: "no answer in time",
    httpx.ReadError: "the connection was lost",
    httpx.RemoteProtocolError: "the receiver broke off",
}
