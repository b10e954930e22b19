"""`http_upload`: any server that takes a file at a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from handler.delivery.base import Stored, allowed
from handler.delivery.http_put import Body
from handler.delivery.names import escaped, plain
from handler.delivery.strike import secrets_of
from handler.transfer.http_ask import basic
from handler.transfer.http_line import origin

if TYPE_CHECKING:
    from handler.credentials import HeaderAuth
    from handler.delivery.base import Progress, Upload
    from handler.delivery.http_put import HttpPut
    from handler.inputs.address import AddressPolicy
    from handler.targets import HttpTarget


class HttpUploader:
    """Sends each file to prefix and name.

    Args:
        header: the operator's, sent to `header_origins` where the request has nothing of its own.
        header_origins: scheme, host and port of each.
    """

    kind = "http_upload"
    waits = False

    def __init__(
        self,
        target: HttpTarget,
        http: HttpPut,
        policy: AddressPolicy,
        *,
        header: HeaderAuth | None = None,
        header_origins: frozenset[tuple[str, str, int]] = frozenset(),
    ) -> None:
        self._target = target
        self._http = http
        self._policy = policy
        prefix = target.url_prefix.get_secret_value()
        url = httpx.URL(prefix)
        own = basic(url) if target.auth is None else target.auth.headers()
        self._brings = target.auth is not None or bool(own)
        operators = not self._brings and header is not None and origin(url) in header_origins
        if operators and header is not None:
            own = header.headers()
        self.own_credentials = not operators
        self._origin = origin(url)
        self._auth = own
        self._query = target.auth.query() if target.auth else {}
        self.secrets = secrets_of(target, header, tuple(own.values()))
        parts = urlsplit(prefix)
        self._prefix = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")

    def location(self, key: str) -> str:
        """Give the URL; documented at the port."""
        return f"{self._prefix}/{plain(key.lstrip('/'))}"

    async def check(self) -> None:
        """Hold the host against the address policy; documented at the port."""
        _, host, port = self._origin
        await allowed(self._policy, host, port, "http_upload.url_prefix")

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Send the file; documented at the port."""
        url = httpx.URL(f"{self._prefix}/{escaped(item.key.lstrip('/'))}")
        if self._query:
            url = url.copy_merge_params(self._query)
        reply = await self._http.send(
            self._target.method or "PUT",
            url,
            {"Content-Type": item.content_type, **self._auth},
            Body(item.path, item.size),
            progress,
        )
        if reply.status in {401, 403}:
            raise reply.refusal(self._why_refused())
        if not reply.good:
            raise reply.refusal(whose="place")
        where = self.location(item.key)
        return Stored(where, where, reply.headers.get("etag"))

    def _why_refused(self) -> str:
        """Say whose credentials were not taken."""
        if self._brings:
            return (
                f"{self.kind}.auth, or user and password in the URL, give no right to write there"
            )
        if not self.own_credentials:
            return "the operator's HTTP_AUTH_HEADER_VALUE gives no right to write there"
        return (
            f"no credentials were sent: the request brings {self.kind}.auth, or the operator sets "
            "HTTP_AUTH_HEADER_NAME, HTTP_AUTH_HEADER_VALUE and HTTP_AUTH_ALLOWED_ORIGINS"
        )

    async def close(self) -> None:
        """Nothing of its own is open; documented at the port."""
