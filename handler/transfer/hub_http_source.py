"""Files of Hugging Face's hub without huggingface_hub: the link itself, as any other over HTTP.

For where it is not installed, and for media: the library would keep each of them in its cache.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from handler.transfer.base import AccessDenied
from handler.transfer.http_source import open_http, release_http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.credentials import Auth
    from handler.transfer.base import Body, Remote
    from handler.transfer.http_source import HttpSource

# The page of a file, or its text: what is wanted is the file.
_PAGE = re.compile(r"(/(?:datasets/|spaces/)?[^/]+(?:/[^/]+)?)/(?:blob|raw)/")


class HubHttpSource:
    """Fetches links of the hub.

    Args:
        http: with the hub's token among its defaults.
        endpoint: the hub; its other names lead there, and would not be sent the token.
    """

    def __init__(self, http: HttpSource, endpoint: str) -> None:
        self._http = http
        self._endpoint = endpoint.rstrip("/")

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask for the file's beginning; documented at the port."""
        with _explained():
            return await self._http.stat(self._direct(url), auth, start, end, parts=parts)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def check_access(self, url: str, auth: Auth | None) -> None:
        """Ask for one byte; documented at the port."""
        with _explained():
            await self._http.check_access(self._direct(url), auth)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    def _direct(self, url: str) -> str:
        parts = urlsplit(url)
        path = _PAGE.sub(r"\1/resolve/", parts.path, count=1)
        return f"{self._endpoint}{path}{'?' if parts.query else ''}{parts.query}"


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what the hub's refusals mean: they are the same for what is private and what is none."""
    try:
        yield
    except AccessDenied as fault:
        fault.hint = (
            "the repository is not there, is private, or has a licence to be accepted on its page: "
            "set HF_TOKEN, or send `credentials` of type bearer"
        )
        raise
