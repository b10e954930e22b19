"""Models of Civitai: files over http(s), with the hash that its API publishes for them."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from handler.errors import HandlerError, InputFailed
from handler.transfer.http_source import open_http, release_http
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from handler.credentials import Auth
    from handler.transfer.base import Body, Remote
    from handler.transfer.http_source import HttpSource
    from handler.transfer.threads import Threads

log = logging.getLogger("comfyfn.transfer")

_PATH = re.compile(r"(?a)/api/download/models/(\d{1,18})/?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_TOLD = 4 << 20
_MOST_KNOWN = 1024
_PATIENCE_S = 10.0
# No answer, or one that is not as the API's are; a question must never cost the download.
_FAULTS = (
    *(HandlerError, TimeoutError, httpx.InvalidURL, ArithmeticError, RecursionError),
    *(ValueError, TypeError, AttributeError),
)


@dataclass(frozen=True, slots=True)
class _File:
    """What the API tells of one of the files of a model's version.

    Attributes:
        traits: what a link may ask for, by the parameter's name, in lower case.
        size: in bytes, as good as it is told.
    """

    traits: dict[str, str]
    size: float
    sha256: str
    primary: bool


class CivitaiSource:
    """Fetches `/api/download/models/<version>` links.

    Args:
        http: fetches the file, and asks the API under the same policy and credentials.
        patience_s: longest wait for the API, while the file itself is asked for.
    """

    def __init__(
        self, http: HttpSource, threads: Threads, *, patience_s: float = _PATIENCE_S
    ) -> None:
        self._http = http
        self._threads = threads
        self._patience_s = patience_s
        self._known: dict[str, list[_File]] = {}

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask for the file's beginning, and the API for its hash; documented at the port."""
        hashing = asyncio.create_task(self._told(url, auth))
        try:
            remote = await self._http.stat(url, auth, start, end, parts=parts)
            try:
                files = await hashing
            except BaseException:
                release_http(remote)
                raise
        finally:
            await ended({hashing})
        return replace(remote, sha256=_meant(files, url, remote.size))

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def admit(self, url: str) -> None:
        """Hold the URL's host against the policy; documented at the port."""
        await self._http.admit(url)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    async def _told(self, url: str, auth: Auth | None) -> list[_File]:
        """Give the files of a link's version; none where the API does not tell."""
        try:
            asked = _question(url)
            if asked in self._known:
                return self._known[asked]
            async with asyncio.timeout(self._patience_s):
                files = _read(await self._answer(asked, auth))
        except _FAULTS as fault:
            told = fault.message if isinstance(fault, HandlerError) else type(fault).__name__
            log.info("Civitai does not tell the hash of what is fetched: %s", told)
            return []
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[asked] = files
        return files

    async def _answer(self, asked: str, auth: Auth | None) -> Any:
        remote = await self._http.stat_ask(self._http.ask(asked, auth), asked, parts=False)
        body = remote.first
        assert body is not None
        try:
            return json.loads(await self._threads.finish(lambda: _whole(body), abort=body.close))
        finally:
            release_http(remote)


def _question(url: str) -> str:
    """Give the API's URL for a download link, with the credentials that are in the link."""
    link = httpx.URL(url)
    found = _PATH.fullmatch(link.path)
    if found is None:
        raise InputFailed("no download link of Civitai")
    token = link.params.get("token")
    params = {"token": token} if token else {}
    return str(
        link.copy_with(
            path=f"/api/v1/model-versions/{found[1]}", query=None, fragment=None
        ).copy_merge_params(params)
    )


def _whole(body: Body) -> bytes:
    """Read an answer to its end. Blocking.

    Raises:
        InputFailed: it broke off.
        ValueError: it is longer than the API's are.
    """
    gathered, buffer = bytearray(), memoryview(bytearray(64 << 10))
    while count := body.readinto(buffer):
        gathered += buffer[:count]
        if len(gathered) > _MOST_TOLD:
            raise ValueError(len(gathered))
    return bytes(gathered)


def _read(answer: Any) -> list[_File]:
    """Take from the API's answer what is of use."""
    files = []
    for file in answer.get("files") or ():
        sha256 = str((file.get("hashes") or {}).get("SHA256") or "").lower()
        if not _SHA256.fullmatch(sha256):
            continue
        metadata = file.get("metadata") or {}
        told = {name: metadata.get(name) for name in ("format", "size", "fp")}
        told["type"] = file.get("type")
        traits = {name: str(value).lower() for name, value in told.items() if value is not None}
        size = float(file.get("sizeKB") or 0) * 1024
        files.append(_File(traits, size, sha256, file.get("primary") is True))
    return files


def _meant(files: list[_File], url: str, size: int | None) -> str | None:
    """Give the hash of the file that a link leads to, where that is beyond doubt.

    The wrong file's hash would be worse than none: what came would be refused.

    Args:
        size: in bytes, of what the link led to.
    """
    if size is None:
        return None
    wanted = {
        name: value.lower()
        for name, value in parse_qsl(urlsplit(url).query)
        if name in {"type", "format", "size", "fp"}
    }
    fitting = [
        file
        for file in files
        if abs(file.size - size) < 1024
        and all(file.traits.get(name) == value for name, value in wanted.items())
    ]
    if not wanted or len(fitting) > 1:
        fitting = [file for file in fitting if file.primary]
    return fitting[0].sha256 if len(fitting) == 1 else None
