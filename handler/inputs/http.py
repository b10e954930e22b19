"""Fetch what a URL names into a file: checked addresses, limits, retries, no half files."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import httpx

from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.inputs.transport import PinnedTransport

if TYPE_CHECKING:
    from pathlib import Path

    from handler.inputs.address import AddressPolicy

log = logging.getLogger("comfyfn.inputs")

_CHUNK = 1 << 20
_MAX_REDIRECTS = 20
_TRIES = 3
_LONGEST_RETRY_AFTER_S = 10.0
_PASSING_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came.

    Attributes:
        filename_hint: the name that the source gives the file, no folder in it; "" for none.
        content_type: the media type that the source claims, lower case; "" for none.
        bytes: size of the file.
    """

    filename_hint: str
    content_type: str
    bytes: int


class _TryAgainError(Exception):
    """A fault that the next try may not meet.

    Attributes:
        failure: what to raise when no try is left.
        retry_after_s: seconds that the source asks to wait.
    """

    def __init__(self, failure: InputFailed, retry_after_s: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after_s = retry_after_s


class HttpFetcher:
    """Fetches http(s) URLs.

    Args:
        policy: where URLs may lead.
        connect_timeout_s: longest wait for a connection to one address.
        idle_timeout_s: longest silence of the source.
        total_timeout_s: longest time for one file, retries included.
        max_bytes: largest file.
        backoff_s: wait before the second try; doubled for each further one.
        verify: TLS trust; certifi's roots by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 30.0,
        total_timeout_s: float = 300.0,
        max_bytes: int = 1 << 30,
        user_agent: str = "comfyfn",
        backoff_s: float = 0.5,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._timeout = httpx.Timeout(idle_timeout_s, connect=connect_timeout_s)
        self._total_timeout_s = total_timeout_s
        self._max_bytes = max_bytes
        self._backoff_s = backoff_s
        self._given_verify = verify
        # Identity: a compressed answer of a few kilobytes can unpack to gigabytes.
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        # Reading the roots takes some 20 ms, so it waits for the first fetch and is done once.
        return self._given_verify or httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str, target: Path) -> Fetched:
        """Write what `url` gives to `target`, whole or not at all.

        Connection faults, 5xx and 429 are tried again a few times; redirects are followed, each
        held against the policy, never from https to http, and without the credentials of another
        origin.

        Raises:
            UrlNotAllowed: the URL, or one it redirects to, leads to an address that is refused.
            InputFailed: no such file, too large, or no http(s) URL (blame caller); or the source
                is out of order or too slow (blame platform, retryable).
        """
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            async with asyncio.timeout(self._total_timeout_s):
                fetched = await self._with_retries(_parsed(url), part)
            part.replace(target)
        except TimeoutError as fault:
            raise _passing(
                f"Failed to download {redacted(url)}: not done within {self._total_timeout_s:g} s"
            ) from fault
        except OSError as fault:
            raise _passing(f"{redacted(url)} cannot be stored: {fault.strerror}") from fault
        finally:
            part.unlink(missing_ok=True)
        return fetched

    async def _with_retries(self, url: httpx.URL, part: Path) -> Fetched:
        number = 1
        while True:
            try:
                return await self._once(url, part)
            except _TryAgainError as fault:
                wait = fault.retry_after_s or self._backoff_s * 2 ** (number - 1)
                if number == _TRIES or wait > _LONGEST_RETRY_AFTER_S:
                    raise fault.failure from fault.__cause__
                number += 1
                log.info("%s; try %d of %d", fault, number, _TRIES)
                # Jitter keeps the fetches of one job from coming back all at once.
                await asyncio.sleep(wait * random.uniform(1, 1.25))  # noqa: S311 - no secret

    async def _once(self, url: httpx.URL, part: Path) -> Fetched:
        async with httpx.AsyncClient(
            transport=PinnedTransport(self._policy, self._verify),
            timeout=self._timeout,
            headers=self._headers,
            trust_env=False,
        ) as client:
            try:
                response = await self._follow(client, url)
                try:
                    return await self._receive(response, part)
                finally:
                    await response.aclose()
            except InputFailed as fault:
                if not fault.retryable:
                    raise
                raise _TryAgainError(fault) from fault.__cause__
            except httpx.TransportError as fault:
                raise _transport_fault(fault, url) from fault
            except httpx.HTTPError as fault:
                raise InputFailed(f"Failed to download {redacted(url)}: {fault}") from fault

    async def _follow(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Response:
        """Send the request and go after redirects; the response is open and successful."""
        request = _request(client, url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await client.send(request, stream=True, auth=None)
            following = response.next_request
            if following is None:
                if response.status_code != 200:
                    await response.aclose()
                    raise _status_fault(response)
                return response
            await response.aclose()
            request = _hop(client, following, response.url)
        raise InputFailed(
            f"Failed to download {redacted(url)}: more than {_MAX_REDIRECTS} redirects"
        )

    async def _receive(self, response: httpx.Response, part: Path) -> Fetched:
        """Write the body to `part`; writes leave the event loop, a disk may be slow."""
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large(response)
        size = 0
        with part.open("wb") as file:
            async for chunk in response.aiter_bytes(_CHUNK):
                size += len(chunk)
                if size > self._max_bytes:
                    raise self._too_large(response)
                await _written(file, chunk)
        content_type = response.headers.get("content-type", "").partition(";")[0]
        return Fetched(_filename(response), content_type.strip().lower(), size)

    def _too_large(self, response: httpx.Response) -> InputFailed:
        return InputFailed(
            f"Failed to download {redacted(response.url)}: larger than {self._max_bytes} bytes",
            details={"max_bytes": self._max_bytes},
        )


async def _written(file: BinaryIO, chunk: bytes) -> None:
    """Write in a thread, and be done even when cancelled: the file is closed right after."""
    work = asyncio.ensure_future(asyncio.to_thread(file.write, chunk))
    try:
        await asyncio.shield(work)
    finally:
        if not work.done():
            await asyncio.wait({work})


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as fault:
        raise InputFailed(f"not a valid URL: {redacted(url)}") from fault
    # httpx escapes what no host may have in it, and would ask DNS for that.
    host = _host(parsed)
    if parsed.scheme not in {"http", "https"} or not host or "%" in host:
        raise InputFailed(f"not an http(s) URL: {redacted(url)}")
    return parsed


def _host(url: httpx.URL) -> str:
    """Give the host, empty for one that no DNS can have: `xn--` alone raises out of idna."""
    try:
        return url.host
    except ValueError:
        return ""


def _request(client: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
    """Build a request whose credentials stand in a header, not in the URL."""
    plain = url.copy_with(username="", password="")
    request = client.build_request("GET", plain)
    if url.userinfo:
        basic = httpx.BasicAuth(url.username, url.password)
        request = next(basic.auth_flow(request))
    return request


def _hop(client: httpx.AsyncClient, following: httpx.Request, before: httpx.URL) -> httpx.Request:
    """Check the request that httpx made of a redirect; it drops credentials for other origins."""
    url = following.url
    if url.scheme not in {"http", "https"} or not _host(url):
        raise InputFailed(f"Failed to download {redacted(before)}: redirected to {url.scheme}:")
    if before.scheme == "https" and url.scheme == "http":
        raise InputFailed(
            f"Failed to download {redacted(before)}: redirected from https to http, {redacted(url)}"
        )
    if url.userinfo:
        return _request(client, url)
    return following


def _filename(response: httpx.Response) -> str:
    """Take the name from Content-Disposition, else from the URL, without any folder."""
    message = Message()
    message["Content-Disposition"] = response.headers.get("content-disposition", "")
    name = message.get_filename() or response.url.path
    leaf = PurePosixPath(name.replace("\\", "/")).name
    return "" if leaf == ".." else "".join(filter(str.isprintable, leaf))


def _passing(message: str, **details: object) -> InputFailed:
    return InputFailed(message, blame="platform", retryable=True, details=details or None)


def _status_fault(response: httpx.Response) -> Exception:
    status = response.status_code
    reason = f"{status} {response.reason_phrase}".strip()
    message = f"Failed to download {redacted(response.url)}: {reason}"
    if status not in _PASSING_STATUSES and status < 500:
        return InputFailed(message, details={"status": status})
    after = response.headers.get("retry-after", "")
    seconds = float(after) if after.isdecimal() else None
    failure = _passing(message, status=status)
    failure.retry_after_s = seconds
    return _TryAgainError(failure, seconds)


def _transport_fault(fault: httpx.TransportError, url: httpx.URL) -> Exception:
    """Tell faults that pass (refused, dropped, silent) from a certificate that is no good."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return InputFailed(
                f"Failed to download {redacted(url)}: {cause.verify_message or cause}"
            )
        cause = cause.__cause__ or cause.__context__
    reason = str(fault) or _SAYINGS.get(type(fault), type(fault).__name__)
    return _TryAgainError(_passing(f"Failed to download {redacted(url)}: {reason}"))


_SAYINGS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "no connection in time",
    httpx.ReadTimeout: "the source fell silent",
    httpx.ReadError: "the connection was lost",
    httpx.RemoteProtocolError: "the source broke off",
}
