"""An HTTP host on 127.0.0.1 that gives files in parts, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, header names in lower case."""

    path: str
    query: str
    headers: dict[str, str]

    @property
    def span(self) -> tuple[int, int | None] | None:
        """First and last byte of the Range header."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) if found[2] else None) if found else None


@dataclass(slots=True)
class File:
    """A file and its manners.

    Attributes:
        etag: None for a file without a mark of its version.
        drops: how many body bytes each next response sends before the connection breaks.
        pause: awaited before each block, with the bytes that the response sent so far.
        length: told in place of the true one.
        wants: headers without which the answer is 401.
        before: called before each request is answered.
    """

    body: bytes
    etag: str | None = '"v1"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    drops: list[int] = field(default_factory=list)
    pause: Callable[[int], Awaitable[None]] | None = None
    length: int | None = None
    wants: dict[str, str] = field(default_factory=dict)
    before: Callable[[Request], None] | None = None
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)


@dataclass(slots=True)
class Host:
    """Files by path.

    Attributes:
        served: bytes of bodies that were sent.
        requests: in order of arrival.
        open: connections now, and `most_open` at once.
    """

    port: int = 0
    files: dict[str, File] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    served: int = 0
    requests: list[Request] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    connections: int = 0

    def url(self, path: str, host: str = "127.0.0.1", user: str = "") -> str:
        """Give the URL of a path."""
        return f"http://{user}{host}:{self.port}{path}"

    def put(self, path: str, body: bytes, **manners: object) -> str:
        """Serve a file and give its URL."""
        self.files[path] = File(body, **manners)
        return self.url(path)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.open += 1
        self.connections += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while await self._answer(reader, writer):
                pass
        finally:
            self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        parts = urlsplit(head[0].split(" ")[1])
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        request = Request(parts.path, parts.query, headers)
        self.requests.append(request)
        if request.path in self.redirects:
            return _head(writer, 302, {"Location": self.redirects[request.path], **_EMPTY})
        file = self.files.get(request.path)
        if file is None:
            return _head(writer, 404, _EMPTY)
        if file.before is not None:
            file.before(request)
            file = self.files[request.path]
        if file.statuses:
            status, extra = file.statuses.pop(0)
            return _head(writer, status, {**extra, **_EMPTY})
        if any(headers.get(name) != value for name, value in file.wants.items()):
            return _head(writer, 401, _EMPTY)
        return await self._give(file, request, writer)

    async def _give(self, file: File, request: Request, writer: asyncio.StreamWriter) -> bool:
        size, span = len(file.body), request.span
        answer = {"Content-Type": file.content_type, "Date": formatdate(usegmt=True)}
        answer |= file.headers
        if file.etag:
            answer["ETag"] = file.etag
        start, end, status = 0, size, 200
        fresh = request.headers.get("if-range") in {None, file.etag}
        if span and file.ranges and fresh:
            if span[0] >= size:
                return _head(writer, 416, {"Content-Range": f"bytes */{size}", **_EMPTY})
            start, status = span[0], 206
            end = size if span[1] is None else min(size, span[1] + 1)
            answer["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if file.length is None or file.length >= 0:
            answer["Content-Length"] = str(end - start if file.length is None else file.length)
        _head(writer, status, answer)
        return await self._send(file, start, end, writer)

    async def _send(self, file: File, start: int, end: int, writer: asyncio.StreamWriter) -> bool:
        sent, drop = 0, file.drops.pop(0) if file.drops else None
        while start + sent < end:
            if file.pause is not None:
                await file.pause(sent)
            count = min(_BLOCK, end - start - sent)
            if drop is not None:
                count = min(count, drop - sent)
            writer.write(file.body[start + sent : start + sent + count])
            await writer.drain()
            self.served += count
            sent += count
            if drop is not None and sent >= drop:
                writer.write_eof()
                return False
        return file.length is None


_EMPTY = {"Content-Length": "0"}


def _head(writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> bool:
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return True


@asynccontextmanager
async def talking(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Converse with whoever connects for the time of a block; give the port."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            talks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


@asynccontextmanager
async def hosting() -> AsyncIterator[Host]:
    """Run a host for the time of a block."""
    host = Host()
    async with talking(host.converse) as host.port:
        yield host


def safetensors(size: int, seed: int = 1) -> bytes:
    """Make a safetensors file of one tensor of `size` bytes of noise."""
    import random

    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)
