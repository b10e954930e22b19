"""Reading a JSON body of any allowed size with bounded memory."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from typing import IO, Any

import orjson
from starlette.requests import ClientDisconnect, Request

from handler.errors import InvalidPayload, JobCancelled, PayloadTooLarge, UnsupportedMediaType

# Bodies over this go to disk while they arrive: many slow uploads must not add up in memory.
IN_MEMORY_BYTES = 1 << 20
JSON_TYPES = ("application/json", "text/json")
# One large body is decoded at a time; the others wait on disk.
_decoding = asyncio.Semaphore(1)


async def read_json(request: Request, limit: int) -> Any:
    """Read and decode the body.

    Args:
        limit: the largest body in bytes.

    Raises:
        UnsupportedMediaType, PayloadTooLarge, InvalidPayload, JobCancelled (client gone).
    """
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind not in JSON_TYPES and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body must be application/json, not {kind}", hint="set the Content-Type header"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    try:
        return await _read(request, limit)
    except ClientDisconnect as error:
        raise JobCancelled("the client went away while it sent its request") from error


async def _read(request: Request, limit: int) -> Any:
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
                spool = tempfile.TemporaryFile(prefix="comfyfn-body-")  # noqa: SIM115
                spool.write(b"".join(parts))
                parts.clear()
        if spool is None:
            return decode(parts[0] if len(parts) == 1 else b"".join(parts))
        async with _decoding:
            return await asyncio.to_thread(_decode_file, spool)
    finally:
        if spool is not None:
            spool.close()


def _decode_file(spool: IO[bytes]) -> Any:
    spool.flush()
    with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return decode(memoryview(view))


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
    finally:
        if isinstance(raw, memoryview):
            raw.release()
    return value


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"Request body is too large: the limit is {limit >> 20} MiB",
        hint="raise MAX_BODY_SIZE_MB, or send large media by URL",
    )
