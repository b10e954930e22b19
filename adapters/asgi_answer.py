"""An Answer as an HTTP response: JSON with base64, or the raw bytes that the client accepts."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from starlette.responses import Response

from handler.errors import NotAcceptable
from handler.wire import SMALL_BYTES, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.types import Receive, Scope, Send

    from handler.records import Output

BLOCK_BYTES = 1 << 20
MOST_RANGES = 32  # of an Accept header; browsers send fewer than ten
RAW_TYPES = (
    *("image/", "video/", "audio/", "model/", "text/plain"),
    *("application/octet-stream", "application/zip"),
)
_URL_SAFE = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True, slots=True)
class Form:
    """What the client accepts.

    Attributes:
        types: media ranges for raw answers, best first; empty for JSON.
        json: whether JSON will do where no output is of these types.
        named_json: whether JSON is asked for by its name.
    """

    types: tuple[str, ...] = ()
    json: bool = False
    named_json: bool = False

    @property
    def multipart(self) -> bool:
        """Whether all outputs shall come as parts."""
        return "multipart/mixed" in self.types


def accepted_form(accept: str) -> Form:
    """Read an `Accept` header; JSON unless raw media or multipart is what it asks for first."""
    ranked = []
    for place, part in enumerate(accept.split(",", MOST_RANGES)[:MOST_RANGES]):
        name, *params = (p.strip().lower() for p in part.split(";"))
        weight = next((_weight(p[2:]) for p in params if p.startswith("q=")), 1.0)
        if name and weight > 0:
            ranked.append((-weight, place, name))
    names = [name for _, _, name in sorted(ranked)]
    named = "application/json" in names
    raw: list[str] = []
    for name in names:
        if name in {"*/*", "application/json", "application/*", "text/html"}:
            return Form(tuple(raw), json=True, named_json=named)
        if name == "multipart/mixed" or name.startswith(RAW_TYPES):
            raw.append(name)
    return Form(tuple(raw), named_json=named)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class AnswerResponse(Response):
    """Sends an answer and then closes it, whatever happens on the way.

    Args:
        headers: sent beside our own, whatever the form.
    """

    def __init__(
        self, answer: Answer, form: Form, headers: Mapping[str, str] | None = None
    ) -> None:
        self._answer = answer
        self._form = form
        more = {name.lower(): value for name, value in (headers or {}).items()}
        told = {**_marks(answer), **more}
        self._told = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            archive = self._archive()
            if archive is not None:
                await self._output(send, archive, 1, "attachment")
            elif not self._form.types:
                await self._json(send)
            elif self._form.multipart:
                await self._multipart(send)
            else:
                await self._raw(send)
        finally:
            await self._answer.close()

    def _archive(self) -> Output | None:
        """Give the one file of all, where the client did not say that it wants it otherwise."""
        if not self._answer.archive or self._form.named_json or self._form.multipart:
            return None
        files = self._answer.files
        # Where it is stored elsewhere, its URL is the answer, unless the file is asked for.
        stored = bool(files and files[0].url) and not self._fitting()
        return files[0] if len(files) == 1 and not stored else None

    async def _json(self, send: Send) -> None:
        length = self._answer.content_length()
        await _start(send, "application/json; charset=utf-8", length, self._told)
        async for block in self._answer.json_blocks():
            await _body(send, block)
        await send({"type": "http.response.body", "body": b""})

    async def _raw(self, send: Send) -> None:
        fitting = self._fitting()
        if not fitting:
            if self._form.json:
                await self._json(send)
            else:
                await self._refuse(send)
            return
        await self._output(send, fitting[0], len(fitting), "inline")

    async def _output(self, send: Send, output: Output, count: int, shown: str) -> None:
        headers = [*self._told, *_headers(output, count, shown)]
        await _start(send, output.mime, output.bytes, headers)
        async for block in output_blocks(output):
            await _body(send, block)
        await send({"type": "http.response.body", "body": b""})

    def _fitting(self) -> list[Output]:
        """List the outputs of the accepted types: by the client's preference, then node order."""
        found: dict[int, Output] = {}
        for wanted in self._form.types:
            family = wanted.removesuffix("*") if wanted.endswith("/*") else None
            for place, output in enumerate(self._answer.outputs):
                fits = output.mime == wanted or (family and output.mime.startswith(family))
                if fits and _at_hand(output):
                    found.setdefault(place, output)
        return list(found.values())

    async def _multipart(self, send: Send) -> None:
        boundary = uuid.uuid4().hex
        parts = [(_part_head(boundary, o), o) for o in self._answer.outputs]
        end = f"--{boundary}--\r\n".encode()
        length = len(end) + sum(len(head) + _length(o) + 2 for head, o in parts)
        kind = f"multipart/mixed; boundary={boundary}"
        await _start(send, kind, length, self._told)
        for head, output in parts:
            await _body(send, head)
            async for block in output_blocks(output):
                await _body(send, block)
            await _body(send, b"\r\n")
        await send({"type": "http.response.body", "body": end})

    async def _refuse(self, send: Send) -> None:
        wanted = ", ".join(self._form.types)
        have = sorted({output.mime for output in self._answer.outputs})
        error = NotAcceptable(
            f"no output is {wanted}: the run gave {', '.join(have) or 'nothing'}",
            hint="accept application/json or multipart/mixed to get whatever comes",
        )
        body = orjson.dumps(error.envelope())
        await _start(send, "application/json", len(body), self._told, status=error.status)
        await send({"type": "http.response.body", "body": body})


async def output_blocks(output: Output) -> AsyncIterator[bytes]:
    """Give an output's bytes block by block."""
    if output.path is None:
        yield (output.text or "").encode()
    elif output.bytes <= SMALL_BYTES:
        yield output.path.read_bytes()
    else:
        with output.path.open("rb") as source:
            while block := await asyncio.to_thread(source.read, BLOCK_BYTES):
                yield block


def _marks(answer: Answer) -> dict[str, str]:
    """Tell, as JSON does, which job this was and which engine ran it."""
    engine = answer.tail.get("engine") or (answer.tail.get("stats") or {}).get("engine") or {}
    ran = " ".join(filter(None, (engine.get("kind"), engine.get("version"))))
    marks = {"x-comfyfn-id": quote(answer.job_id, safe="")}
    return {**marks, "x-comfyfn-engine": quote(ran, safe=" ")} if ran else marks


def _at_hand(output: Output) -> bool:
    """Tell whether the bytes are here: an answer that is given again may have the URL alone."""
    return output.path is not None or output.text is not None


def _length(output: Output) -> int:
    return output.bytes if _at_hand(output) else 0


def _headers(output: Output, count: int, shown: str) -> list[tuple[bytes, bytes]]:
    disposition = f"{shown}; filename*=UTF-8''{quote(output.filename)}"
    headers = [
        (b"content-disposition", disposition.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-output-count", str(count).encode()),
        (b"x-output-node", quote(output.node_id).encode()),
    ]
    if output.url is not None:
        headers.append((b"x-output-url", _url(output.url)))
    return headers


def _url(url: str) -> bytes:
    return quote(url, safe=_URL_SAFE).encode()


def _part_head(boundary: str, output: Output) -> bytes:
    stored = f"X-Output-Url: {_url(output.url).decode()}\r\n" if output.url is not None else ""
    size = _length(output)
    return (
        f"--{boundary}\r\nContent-Type: {output.mime}\r\nContent-Length: {size}\r\n"
        f"Content-Disposition: attachment; filename*=UTF-8''{quote(output.filename)}\r\n"
        f"X-Output-Node: {quote(output.node_id)}\r\n{stored}\r\n"
    ).encode()


async def _start(
    send: Send, kind: str, length: int, headers: list[tuple[bytes, bytes]], status: int = 200
) -> None:
    base = [(b"content-type", kind.encode()), (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": status, "headers": base + headers})


async def _body(send: Send, block: bytes) -> None:
    await send({"type": "http.response.body", "body": block, "more_body": True})
