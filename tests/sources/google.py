"""Doubles of Google: tokens for service accounts, and the resumable uploads of its storage."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def service_account(folder: Path, token_url: str) -> Path:
    """Write the key of a service account whose tokens come from a URL of the test's own."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "writer@project.test",
        "private_key": key.decode(),
        "token_uri": token_url,
    }
    path = folder / "key.json"
    path.write_text(json.dumps(account))
    return path


@asynccontextmanager
async def tokens(token: str | None) -> AsyncIterator[tuple[str, list[Any]]]:
    """Give tokens for the time of a block (None: refuse); the URL, and what was asked."""
    asked: list[Any] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(await request.post())
        if token is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": token, "expires_in": 3600})

    async with _serving(answer) as url:
        yield f"{url}/token", asked


@dataclass(slots=True)
class Gcs:
    """Objects by bucket and name.

    Attributes:
        buckets: that are there.
        about: what was told of each object.
        token: that is wanted.
        breaks: after how many bytes each next body is cut off.
    """

    url: str = ""
    buckets: set[str] = field(default_factory=lambda: {"results"})
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    about: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    token: str = ""
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    _sessions: dict[str, tuple[tuple[str, str], int, bytearray]] = field(default_factory=dict)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer as the JSON API does."""
        self.asked.append((request.method, request.headers.get("Content-Range")))
        if self.statuses:
            return _fault(self.statuses.pop(0), "for a while")
        if request.method == "POST":
            return await self._begin(request)
        return await self._take(request)

    async def _begin(self, request: web.BaseRequest) -> web.StreamResponse:
        bucket = request.path.split("/")[5]
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _fault(401, f"not {request.headers.get('Authorization')}")
        if bucket not in self.buckets:
            return _fault(404, "The specified bucket does not exist.")
        about = await request.json()
        place = (bucket, about["name"])
        size = int(request.headers["X-Upload-Content-Length"])
        name = str(len(self._sessions))
        self._sessions[name] = (place, size, bytearray())
        self.about[place] = about
        return web.Response(headers={"Location": f"{self.url}/upload/session?upload_id={name}"})

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        place, size, here = self._sessions[request.query["upload_id"]]
        found = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/\d+", request.headers.get("Content-Range", "")
        )
        if found is None or found[1]:
            assert len(here) == int(found[1] if found else 0)
            if not await self._read(request, here):
                return web.Response(status=500)
        if len(here) < size:
            headers = {"Range": f"bytes=0-{len(here) - 1}"} if here else {}
            return web.Response(status=308, headers=headers)
        self.files[place] = bytes(here)
        return web.json_response({"size": str(size), "etag": "e1"})

    async def _read(self, request: web.BaseRequest, here: bytearray) -> bool:
        cut = self.breaks.pop(0) if self.breaks else None
        read = 0
        async for block, _ in request.content.iter_chunks():
            here += block if cut is None else block[: cut - read]
            read += len(block)
            if cut is not None and read >= cut:
                assert request.transport is not None
                request.transport.close()
                return False
        return True


def _fault(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message}}, status=status)


@asynccontextmanager
async def storage(token: str) -> AsyncIterator[Gcs]:
    """Run a storage for the time of a block."""
    running = Gcs(token=token)
    async with _serving(running.answer) as running.url:
        yield running


@asynccontextmanager
async def _serving(answer: Any) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
