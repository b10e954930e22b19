"""HTTP to a platform that may be booting, busy, or gone for a moment.

What is repeated: everything that is safe to repeat, and of the rest what surely has not begun (no
connection, 429, 503). How long: while a worker boots as long as the caller waits; while nobody
answers at all only `SILENCE_S`, as an address may be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import httpx

from handler.errors import JobCancelled
from handler.version import VERSION
from local_server.remote.faults import Truncated, Unreachable, failure_of_response, json_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from local_server.remote.base import Teller

FIRST_SILENCE_S = 6.0
"""Before anybody ever answered."""
SILENCE_S = 90.0
MOST_REDIRECTS = 20  # a long call of Modal is redirected every 150 s
_NOT_BEGUN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_WAITS = {"not_ready", "draining", "queue_full", "state_unavailable"}
_LONGEST_RETRY_AFTER_S = 60.0
MOST_BYTES = 1 << 30
"""Of an answer that is read at once, after it was unpacked."""

_OF_THE_WAY = ("content-encoding", "content-length", "transfer-encoding")
# The last five are Cloudflare's, which Salad's gateway is behind.
_AGAIN = {408, 425, 500, 502, 504, 520, 521, 522, 523, 524}


class Link:
    """Requests to one server.

    Args:
        base: its URL, without a slash at the end.
        headers: sent with every request to it, and to nobody else.
        pause_s: the first pause before another try, and the longest.
        silence_s: how long nobody may answer, before anybody ever did and after.
        follow: streams follow redirects to anywhere; for links without headers.
    """

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str] | None = None,
        *,
        pause_s: tuple[float, float] = (0.25, 5.0),
        silence_s: tuple[float, float] = (FIRST_SILENCE_S, SILENCE_S),
        follow: bool = False,
    ) -> None:
        self.base = base
        self._follow = follow
        self._pause_s, self._silence_s = pause_s, silence_s
        self._quitting = asyncio.Event()
        self._tries = 0
        self._silent_since: float | None = None
        self._ever = False
        self._client = httpx.AsyncClient(
            headers={"User-Agent": f"comfyfn/{VERSION}", **(headers or {})},
            timeout=httpx.Timeout(60.0, connect=15.0),
        )

    def __repr__(self) -> str:
        return f"<Link {self.base}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def quit(self) -> None:
        """Have whoever pauses stop trying."""
        self._quitting.set()

    async def send(
        self,
        method: str,
        path: str,
        *,
        again: bool = True,
        teller: Teller | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send a request until it is answered; an answer of success or 3xx is given back.

        Args:
            again: whether it may be sent twice.
            teller: told why it takes long.
            options: of httpx.

        Raises:
            HandlerError: what the server answers that another try would not change.
            Unreachable: nobody answers for too long.
        """
        while True:
            try:
                response = await self._sent(method, self.base + path, options)
            except httpx.TransportError as error:
                if not again and not isinstance(error, _NOT_BEGUN):
                    raise Unreachable(
                        f"{self.base}: the connection broke, and the job may have begun: {error!r}",
                        retryable=True,
                    ) from error
                await self.lost(error, teller)
                continue
            self.heard()
            if not _is_to_wait(response, again=again):
                return self._checked(response)
            await self._pause(_retry_after(response), _reason(response), teller)

    async def _sent(self, method: str, url: str, options: Mapping[str, Any]) -> httpx.Response:
        """Send once; a redirect is followed while it leads to the same server."""
        response = await self._answer(method, url, options)
        for _ in range(MOST_REDIRECTS):
            target = self.redirect(response)
            if target is None:
                break
            if response.status_code in {301, 302, 303}:
                timeout = {"timeout": options.get("timeout", 60.0)}
                response = await self._answer("GET", target, timeout)
            else:
                response = await self._answer(method, target, options)
        return response

    async def _answer(self, method: str, url: str, options: Mapping[str, Any]) -> httpx.Response:
        async with self._client.stream(method, url, **options) as response:
            return await read(response)

    def redirect(self, response: httpx.Response) -> str | None:
        """Give where an answer leads, if that is the same server: our headers are for it alone."""
        if response.status_code not in {301, 302, 303, 307, 308}:
            return None
        target = urljoin(str(response.url), response.headers.get("location", ""))
        here, there = urlsplit(str(response.url)), urlsplit(target)
        return target if (here.scheme, here.netloc) == (there.scheme, there.netloc) else None

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code >= 300:
            raise failure_of_response(response, self.base)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Get a path and give the answer whose body is still to come, whatever its status.

        Raises:
            httpx.TransportError: the connection broke; `lost` waits before another try.
        """
        async with self._client.stream(
            "GET", self.url(path), headers=headers, follow_redirects=self._follow
        ) as response:
            self.heard()
            yield response

    def url(self, path: str) -> str:
        """Give the whole URL of a path."""
        return path if path.startswith(self.base) else self.base + path

    def heard(self) -> None:
        """Note that the server answers."""
        self._ever, self._silent_since = True, None

    def forget(self) -> None:
        """Begin with short pauses again: what was waited for is there."""
        self._tries = 0

    async def lost(self, error: Exception, teller: Teller | None = None) -> None:
        """Pause after a connection broke.

        Raises:
            Unreachable: that goes on for too long.
        """
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        limit = self._silence_s[1 if self._ever else 0]
        if now - self._silent_since >= limit:
            said = str(error) or type(error).__name__
            raise Unreachable(
                f"{self.base or 'the server of an output'} does not answer: {said}",
                hint="is the address right, and the server up?",
            ) from error
        await self._pause(None, "connection lost" if self._ever else "no answer yet", teller)

    async def _pause(self, asked_s: float | None, reason: str, teller: Teller | None) -> None:
        if teller is not None:
            teller.say(reason)
        first, longest = self._pause_s
        wait = min(first * 1.6**self._tries, longest)
        self._tries += 1
        if asked_s is not None:  # a worker that boots knows no better than we; look now and then
            wait = min(max(wait, min(asked_s, longest)), _LONGEST_RETRY_AFTER_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quitting.wait(), wait)
        if self._quitting.is_set():
            raise JobCancelled("it was stopped before it began")


async def read(response: httpx.Response, most: int = MOST_BYTES) -> httpx.Response:
    """Read an answer whose body is still to come, and give it with its body.

    Raises:
        Truncated: it is too large to be read at once.
    """
    parts: list[bytes] = []
    size = 0
    async for block in response.aiter_bytes():
        parts.append(block)
        size += len(block)
        if size > most:
            raise Truncated(f"an answer of more than {most >> 20} MiB is not read")
    headers = [(k, v) for k, v in response.headers.items() if k.lower() not in _OF_THE_WAY]
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=b"".join(parts),
        request=response.request,
        extensions=response.extensions,
    )


def _is_to_wait(response: httpx.Response, *, again: bool) -> bool:
    """Tell whether the same request may be answered otherwise in a moment."""
    status = response.status_code
    if status == 204:  # a load balancer whose worker boots
        return "retry-after" in response.headers
    if status in {429, 503}:
        code = _code(response)
        return code is None or code in _WAITS
    return again and status in _AGAIN and _code(response) is None


def _code(response: httpx.Response) -> str | None:
    body = json_of(response)
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, str) else None


def _reason(response: httpx.Response) -> str:
    body = json_of(response)
    said = body.get("message") if isinstance(body, dict) and _code(response) else None
    return str(said)[:60] if said else f"waits for a worker ({response.status_code})"


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None
