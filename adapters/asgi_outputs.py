"""The kept outputs of a job: each by its name, in parts where asked, or all as one ZIP file."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

from adapters.asgi_json import refusal
from adapters.asgi_streams import Streamed, in_threads, unless_gone
from adapters.http_ranges import Span, range_holds, unchanged, wanted_span
from handler.errors import NotFound, RangeNotSatisfiable
from handler.graph.rewrite import safe_leaf
from handler.state.archive import zip_blocks, zip_length

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from handler.service import Handler
    from handler.state.kept import KeptFile
    from handler.state.records import OutputRecord

SHOWN = ("image/", "video/", "audio/", "text/plain")
RUNS = "+xml"  # SVG is a picture and a program
CACHE = "private, max-age=300"  # an id may be sent again and then names another run
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}


class OutputRoutes:
    """The routes, one method each."""

    def __init__(self, handler: Handler) -> None:
        self._stored = handler.stored

    async def output(self, request: Request) -> Response:
        """Send a kept output, or the part of it that is asked for."""
        job_id, name = request.path_params["id"], request.path_params["name"]
        record, output = await self._stored.output(job_id, name)
        headers = _headers(output)
        if unchanged(request.headers.get("if-none-match", ""), headers["ETag"]):
            told = {name: headers[name] for name in ("ETag", "Cache-Control")}
            return Response(status_code=304, headers=told)
        try:
            span = _span(request, output, headers["ETag"])
        except RangeNotSatisfiable as fault:
            return refusal(fault, {"Content-Range": f"bytes */{output.bytes}"})
        first, last = (span.first, span.last) if span else (0, max(0, output.bytes - 1))
        # Of what is empty no position can be asked for.
        end = last if output.bytes else None
        file = await self._stored.open(record, output, first, end)
        headers["Content-Length"] = str(span.bytes if span else output.bytes)
        if span is not None:
            headers["Content-Range"] = f"bytes {span.first}-{span.last}/{output.bytes}"
        status = 200 if span is None else 206
        if request.method == "HEAD":
            await file.close()
            return Response(status_code=status, headers=headers)
        return Streamed(_blocks(file), close=file.close, status_code=status, headers=headers)

    async def archive(self, request: Request) -> Response:
        """Send all kept outputs as one file, made while it is sent."""
        job_id = request.path_params["id"]
        entries = await self._stored.archive(job_id)
        headers = {
            **NO_SNIFFING,
            "Content-Type": "application/zip",
            "Content-Disposition": f'attachment; filename="{safe_leaf(job_id)}.zip"',
            "Cache-Control": "no-store",
            "Accept-Ranges": "none",
        }
        length = await asyncio.to_thread(zip_length, entries)
        if length is not None:
            headers["Content-Length"] = str(length)
        if request.method == "HEAD":
            return Response(headers=headers)
        blocks = in_threads(zip_blocks(entries))
        try:
            first = await unless_gone(request, anext(blocks))
        except BaseException as error:
            with contextlib.suppress(RuntimeError):  # a thread is still in it, which closes it
                await blocks.aclose()
            if isinstance(error, OSError):
                raise NotFound(f"not kept any more: {error}", hint="OUTPUT_RETENTION_S") from error
            raise
        return Streamed(_after(first, blocks), close=blocks.aclose, headers=headers)


def _span(request: Request, output: OutputRecord, etag: str) -> Span | None:
    """Read which part is asked for; of GET only, as the standard has it."""
    if request.method != "GET" or not range_holds(request.headers.get("if-range"), etag):
        return None
    return wanted_span(request.headers.get("range", ""), output.bytes)


def _headers(output: OutputRecord) -> dict[str, str]:
    kind = output.mime.partition(";")[0].strip().lower()
    shown = kind.startswith(SHOWN) and not kind.endswith(RUNS)
    where = "inline" if shown else "attachment"
    # A text of a node is UTF-8; what a file's encoding is, nobody knows.
    of_node = output.facts.get("text") is not None and kind == "text/plain"
    headers = {
        **NO_SNIFFING,
        "Content-Type": f"{kind}; charset=utf-8" if of_node else output.mime,
        "Content-Disposition": f"{where}; filename*=UTF-8''{quote(output.name, safe='')}",
        "ETag": f'"{output.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE,
    }
    if not shown:  # a page that a stranger's graph wrote must not run as one of ours
        headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return headers


async def _blocks(file: KeptFile) -> AsyncGenerator[bytes, None]:
    async for block in file.blocks():
        yield block


async def _after(first: bytes, blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for block in blocks:
        yield block
