"""Reading a JSON body of any allowed size with bounded memory."""

from __future__ import annotations

import asyncio
import mmap
import re
import secrets
import tempfile
from typing import IO, TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect, Request

from handler.errors import (
    InternalFault,
    InvalidPayload,
    JobCancelled,
    PayloadTooLarge,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from pathlib import Path

# Bodies over this go to disk while they arrive: many slow uploads must not add up in memory.
IN_MEMORY_BYTES = 1 << 20
LONGEST_SIZE = 18  # digits; Python refuses to read numbers of thousands of them
# A text of base64 or a data URI, long enough to be worth the detour: nothing in it is escaped, and
# what follows a closing quote (`:`, `,` or a bracket) cannot be taken for its begin.
LONG_TEXT = re.compile(rb'(?<!\\)"(?![:,])([A-Za-z0-9+/=_:;,.-]{65536,}+)"(?!\s*:)')
JSON_TYPES = ("application/json", "text/json")


class JsonBodies:
    """Reads the bodies of one application's requests, all in one event loop.

    Args:
        scratch: folder for large bodies; the system's temporary one by default.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        # One large body is decoded at a time; the others wait on disk.
        self._decoding = asyncio.Semaphore(1)

    async def read(self, request: Request, limit: int) -> Any:
        """Read and decode a body.

        Args:
            limit: the largest body in bytes.

        Raises:
            UnsupportedMediaType, PayloadTooLarge, InvalidPayload, JobCancelled (client gone),
            InternalFault (no room in the scratch folder).
        """
        kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if kind not in JSON_TYPES and not kind.endswith("+json"):
            raise UnsupportedMediaType(
                f"the body must be application/json, not {kind}", hint="set the Content-Type header"
            )
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > LONGEST_SIZE or int(announced) > limit):
            raise _too_large(limit)
        try:
            return await self._read(request, limit)
        except ClientDisconnect as error:
            raise JobCancelled("the client went away while it sent its request") from error
        except OSError as error:
            raise InternalFault(
                f"the body cannot be stored: {error.strerror}", hint="check WORK_DIR and its space"
            ) from error

    async def _read(self, request: Request, limit: int) -> Any:
        parts: list[bytes] = []
        size = 0
        spool: IO[bytes] | None = None
        try:
            async for block in request.stream():
                size += len(block)
                if size > limit:
                    raise _too_large(limit)
                if spool is not None:
                    await asyncio.to_thread(spool.write, block)
                    continue
                parts.append(block)
                if size > IN_MEMORY_BYTES:
                    spool = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115
                    spool.write(b"".join(parts))
                    parts.clear()
            if spool is None:
                return decode(parts[0] if len(parts) == 1 else b"".join(parts))
            async with self._decoding:
                return await asyncio.to_thread(_decode_file, spool)
        finally:
            if spool is not None:
                spool.close()


def _decode_file(spool: IO[bytes]) -> Any:
    """Decode JSON whose media are not in memory several times over.

    The decoder copies its input and makes each text from the copy. Long texts are left out of it,
    and made from the file itself.
    """
    spool.flush()
    with (
        mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as file,
        memoryview(file) as view,
    ):
        texts: dict[str, str] = {}
        rest: list[bytes] = []
        token, end = secrets.token_hex(16), 0
        for begin, after in [found.span(1) for found in LONG_TEXT.finditer(view)]:
            name = f"{token}-{len(texts)}"
            texts[name] = str(view[begin:after], "ascii")
            rest += [bytes(view[end:begin]), name.encode()]
            end = after
        if not texts:
            return decode(view)
        rest.append(bytes(view[end:]))
        try:
            value = orjson.loads(b"".join(rest))
        except orjson.JSONDecodeError:
            texts.clear()
            return decode(view)  # to tell the place of the fault in the whole
        return _filled(value, texts)


def _filled(value: Any, texts: dict[str, str]) -> Any:
    """Put the texts where their names are; no recursion, whatever the depth."""
    whole = [value]
    todo: list[Any] = [whole]
    while todo:
        inner = todo.pop()
        for key, item in inner.items() if isinstance(inner, dict) else enumerate(inner):
            if isinstance(item, str):
                if item in texts:
                    inner[key] = texts[item]
            elif isinstance(item, dict | list):
                todo.append(item)
    return whole[0]


def decode(raw: bytes | memoryview) -> Any:
    """Decode JSON.

    Raises:
        InvalidPayload: with the place of the fault.
    """
    if not raw:
        raise InvalidPayload("the body is empty; a JSON object is required")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidPayload(
            f"the body is no JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    return value


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"Request body is too large: the limit is {limit >> 20} MiB",
        hint="raise MAX_BODY_SIZE_MB, or send large media by URL",
    )
