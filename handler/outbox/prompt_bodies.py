"""The bodies of webhooks' posts, made block by block: a result may be hundreds of megabytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from handler.wire import base64_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from handler.records import Output
    from handler.wire import Answer

IN_MEMORY_BYTES = 1 << 20
"""A body that is larger becomes a file."""


async def complete_blocks(answer: Answer, extra: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Give the body of `prompt.complete`: the answer between what is the post's own."""
    told = {"type": "prompt.complete", "timestamp": timestamp()}
    before = _dumped(told)[:-1] + b","
    skip = 1  # the answer's first brace
    async for block in answer.json_blocks():
        yield before
        before, skip = block[skip:], 0
    # What the answer says itself must not be there twice.
    after = {key: value for key, value in extra.items() if key not in answer.head}
    yield before[:-1] + (b"," + _dumped(after)[1:] if after else b"}")


async def output_blocks(
    answer: Answer, output: Output, extra: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Give the body of `output.complete`: one output, by its URL or in base64.

    Raises:
        OSError: its file is not as long as it was.
    """
    yield b'{"event":"output.complete","image":'
    if output.url is not None:
        yield _dumped(output.url)
    elif output.path is None:
        yield _dumped(base64.b64encode((output.text or "").encode()).decode())
    else:
        yield b'"'
        async for block in base64_blocks(output.path, output.bytes):
            yield block
        yield b'"'
    rest = {
        "id": answer.job_id,
        "filename": output.filename,
        "prompt": answer.head.get("prompt"),
        "stats": answer.tail.get("stats"),
        **extra,
    }
    yield b"," + _dumped(rest)[1:]


def failed_body(told: dict[str, Any], kind: str = "") -> bytes:
    """Give the body of a failure; that of `webhook_v2` names its kind and the time."""
    return _dumped({"type": kind, "timestamp": timestamp(), **told} if kind else told)


def timestamp() -> str:
    """Give the time of day in UTC, as JavaScript writes it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return now.replace("+00:00", "Z")


@contextlib.asynccontextmanager
async def gathered(
    blocks: AsyncGenerator[bytes, None], scratch: Path
) -> AsyncIterator[bytes | Path]:
    """Give a body as a whole: as bytes, or where it is large as a file, which goes at the end.

    Raises:
        OSError: the file cannot be written.
    """
    small = bytearray()
    file: IO[bytes] | None = None
    try:
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                if file is None and len(small) + len(block) <= IN_MEMORY_BYTES:
                    small += block
                    continue
                if file is None:
                    file = _new_file(scratch)
                    await asyncio.to_thread(file.write, small)
                    small.clear()
                await asyncio.to_thread(file.write, block)
        if file is not None:
            await asyncio.to_thread(file.flush)
        yield bytes(small) if file is None else Path(file.name)
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            with contextlib.suppress(OSError):  # what it could not write before, either
                file.close()


def _new_file(scratch: Path) -> IO[bytes]:
    return tempfile.NamedTemporaryFile(dir=scratch, prefix="webhook-", delete=False)


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # numbers and texts that only Python's own JSON has
        return json.dumps(value, default=str).encode()
