"""Send requests over HTTP: to checked addresses, through redirects, over connections used again."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
from functools import cached_property
from typing import TYPE_CHECKING

import httpx

from handler.errors import InputFailed
from handler.transfer.base import AccessDenied
from handler.transfer.http_line import connected, origin, passing
from handler.transfer.tokens import denied_hint

if TYPE_CHECKING:
    from handler.inputs.address import AddressPolicy
    from handler.transfer.http_ask import Ask, Trail
    from handler.transfer.http_line import Line
    from handler.transfer.threads import Threads

_MAX_REDIRECTS = 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING_STATUSES = frozenset({408, 425, 429})
# What a link that was valid for a while answers afterwards.
_EXPIRED = frozenset({400, 401, 403, 404, 410})


class Sender:
    """Sends GET requests.

    Args:
        policy: where URLs may lead.
        threads: for what blocks.
        connect_timeout_s: longest wait for a connection to one address.
        idle_timeout_s: longest wait for the head of an answer.
        header_withheld: told to who is refused without any credentials.
        trust: TLS trust; certifi's roots by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        threads: Threads,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        header_withheld: bool = False,
        user_agent: str,
        trust: ssl.SSLContext | None,
    ) -> None:
        self._policy = policy
        self._threads = threads
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._given_trust = trust
        self._header_withheld = header_withheld
        # Identity: parts, lengths and hashes are those of the file itself.
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        # Reading the roots takes some 20 ms, so it waits for the first fetch and is done once.
        return self._given_trust or httpx.create_ssl_context(trust_env=False)

    async def admit(self, url: httpx.URL) -> None:
        """Hold a URL's host against the policy, and dial nothing.

        Raises:
            UrlNotAllowed: the policy refuses where it leads.
            InputFailed: the name has no address.
        """
        _, host, port = origin(url)
        await self._policy.resolve(host, port)

    async def get(
        self, trail: Trail, extra: dict[str, str], refused: frozenset[int] = frozenset()
    ) -> tuple[Line, http.client.HTTPResponse]:
        """Ask where the file was found last, else from the beginning of its trail.

        Args:
            extra: headers of this request.
            refused: statuses beside 200 and 206 that the caller looks into.

        Raises:
            UrlNotAllowed: the policy refuses where it leads.
            AccessDenied: 401 or 403.
            InputFailed: another status, no connection, no HTTP.
        """
        if trail.found is not trail.asked:
            try:
                return await self._follow(trail, trail.found, extra, refused)
            except InputFailed as fault:
                details = fault.details if isinstance(fault.details, dict) else {}
                if details.get("status") not in _EXPIRED:
                    raise
        return await self._follow(trail, trail.asked, extra, refused)

    async def _follow(
        self, trail: Trail, ask: Ask, extra: dict[str, str], refused: frozenset[int]
    ) -> tuple[Line, http.client.HTTPResponse]:
        """Send a request and go after redirects; every hop is held against the policy.

        Args:
            refused: statuses beside 200 and 206 that the caller looks into.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            line, response = await self._exchange(trail, ask, extra)
            status = response.status
            if status in {200, 206} or status in refused:
                trail.found = ask
                return line, response
            line.close()
            location = response.getheader("location")
            if status not in _REDIRECTS or not location:
                raise _status_fault(response, ask, withheld=self._header_withheld)
            trail.led.append((origin(ask.url), response.headers))
            ask = ask.led_to(location)
        raise InputFailed(f"{ask.shown}: more than {_MAX_REDIRECTS} redirects")

    async def _exchange(
        self, trail: Trail, ask: Ask, extra: dict[str, str]
    ) -> tuple[Line, http.client.HTTPResponse]:
        url = ask.full_url()
        headers = {**self._headers, **extra, **ask.headers}
        line = trail.take(origin(url))
        if line is not None:
            # It may have been closed from the other side while it was idle: then a new one is due.
            with contextlib.suppress(InputFailed):
                return line, await self._head(line, url, headers, ask.shown)
        line = await connected(self._policy, url, self._connect_timeout_s, self._idle_timeout_s)
        return line, await self._head(line, url, headers, ask.shown)

    async def _head(
        self, line: Line, url: httpx.URL, headers: dict[str, str], shown: str
    ) -> http.client.HTTPResponse:
        """Send the request and read the head of the answer; the line is closed on a fault."""

        def work() -> http.client.HTTPResponse:
            try:
                if url.scheme == "https" and not line.used:
                    line.secure(self._trust)
                return line.ask(url, headers)
            except BaseException:
                line.close()
                raise

        try:
            async with asyncio.timeout(self._idle_timeout_s):
                return await self._threads.call(
                    work, abort=line.abort, dispose=lambda _: line.close()
                )
        except TimeoutError as fault:
            raise passing(f"{shown}: the source fell silent") from fault
        except ssl.SSLCertVerificationError as fault:
            raise InputFailed(f"{shown}: {fault.verify_message or fault.reason}") from fault
        except (OSError, http.client.HTTPException, ValueError) as fault:
            raise passing(f"{shown}: the source broke off") from fault


def _status_fault(response: http.client.HTTPResponse, ask: Ask, *, withheld: bool) -> InputFailed:
    status = response.status
    message = f"{ask.shown}: {status} {response.reason or ''}".strip()
    details: dict[str, object] = {"status": status}
    if region := response.getheader("x-amz-bucket-region"):
        details["region"] = region
    if status in {401, 403}:
        bare = not ask.headers and not ask.query
        hint = denied_hint(ask.url.host, header_withheld=withheld and bare)
        return AccessDenied(message, hint=hint, details=details)
    if status not in _PASSING_STATUSES and status < 500:
        return InputFailed(message, details=details)
    after = response.getheader("retry-after", "")
    failure = passing(message, **details)
    failure.retry_after_s = float(after) if after.isdecimal() else None
    return failure
