"""HTTP connections to checked addresses only.

httpx asks this transport for every request, redirects included: the host is resolved through the
policy, and the connection goes to the address that was checked while `Host` and TLS keep the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import ssl

    from handler.inputs.address import AddressPolicy

_PORTS = {"http": 80, "https": 443}


class PinnedTransport(httpx.AsyncBaseTransport):
    """A transport that dials what the policy allows.

    Args:
        policy: resolves and refuses.
        verify: how TLS servers prove who they are.
    """

    def __init__(self, policy: AddressPolicy, verify: ssl.SSLContext) -> None:
        self._policy = policy
        # No connection is kept: the pool tells them apart by address, so a request for another
        # name at the same address would get one whose certificate was never held against it.
        self._inner = httpx.AsyncHTTPTransport(
            verify=verify, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request to the first address of its host that takes the connection.

        Raises:
            UrlNotAllowed, InputFailed: by the policy, before anything is dialled.
            httpx.TransportError: as httpx raises them.
        """
        url = request.url
        addresses = await self._policy.resolve(_host(url), url.port or _PORTS[url.scheme])
        *others, last = addresses
        for address in others:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._inner.handle_async_request(_pinned(request, last))

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    """Copy a request for an address; the original stays as it is, redirects are built from it."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": _host(request.url)},
    )


def _host(url: httpx.URL) -> str:
    """Give the host as DNS and certificates have it: in ASCII."""
    return url.raw_host.decode("ascii").strip("[]")
