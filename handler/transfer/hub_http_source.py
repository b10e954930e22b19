"""Files of Hugging Face's hub without huggingface_hub: the link itself, as any other over HTTP.

For where it is not installed, and for media: what is small comes sooner so.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from handler.transfer.base import AccessDenied
from handler.transfer.http_ask import Trail
from handler.transfer.http_line import origin
from handler.transfer.http_source import open_http, release_http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.credentials import Auth
    from handler.transfer.base import Body, Remote
    from handler.transfer.http_source import HttpSource

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"(?a)\d{1,18}")
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
            remote = await self._http.stat(self._direct(url), auth, start, end, parts=parts)
        return self._linked(remote)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    def _linked(self, remote: Remote) -> Remote:
        """Add what the hub told of the file when it led on to where the bytes are."""
        trail, sha256, size = remote.handle, remote.sha256, remote.size
        assert isinstance(trail, Trail)
        home = origin(httpx.URL(self._endpoint))
        for where, headers in trail.led:
            if where != home:
                continue  # anybody could tell such a thing
            etag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
            length = headers.get("X-Linked-Size", "")
            sha256 = etag if _SHA256.fullmatch(etag) else sha256
            size = int(length) if size is None and _SIZE.fullmatch(length) else size
        return replace(remote, sha256=sha256, size=size)

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
