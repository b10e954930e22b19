"""The answer to a job, and how it becomes bytes. The same on every platform.

Base64 is made while the answer is sent, block by block from the files: a result of any size costs
the memory of one block. All lengths are known before, so that the answer has a Content-Length.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from handler.records import Output

BLOCK_BYTES = 3 << 18  # a multiple of 3: blocks of base64 join without padding
SMALL_BYTES = 1 << 18  # read at once and inline: cheaper than a thread


@dataclass(slots=True)
class Answer:
    """A job's result. Close it when it is sent: that removes the job's files.

    Attributes:
        job_id: the job's id.
        head: keys before the outputs, the echoed request.
        tail: keys after them, `stats` and what else.
        outputs: files and texts in node order; of those with a URL, that is told in place of
            their bytes.
        archive: the only output is one file of all: clients that name no form are sent it as it is.
    """

    job_id: str
    head: Mapping[str, Any]
    outputs: list[Output]
    tail: dict[str, Any]
    on_close: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)
    archive: bool = False
    _encoded: tuple[bytes, list[Output], bytes] | None = field(default=None, repr=False)

    @property
    def files(self) -> list[Output]:
        """The outputs that are files, here or at a URL alone."""
        return [one for one in self.outputs if one.path is not None or _elsewhere(one)]

    async def close(self) -> None:
        """Remove the job's files and let go of the result; more than once is fine."""
        on_close, self.on_close = self.on_close, None
        self.head, self.outputs, self.tail, self._encoded = {}, [], {}, None
        if on_close is not None:
            await on_close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _parts(self) -> tuple[bytes, list[Output], bytes]:
        """Encode all but the base64, once: the graph in it may be large."""
        self._encoded = self._encoded or self._encode()
        return self._encoded

    def _encode(self) -> tuple[bytes, list[Output], bytes]:
        files = self.files
        begin = orjson.dumps(dict(self.head))[:-1]
        begin += (b"," if self.head else b"") + b'"images":['
        rest = {
            "filenames": [output.filename for output in files],
            "outputs": [output.public() for output in self.outputs],
            **self.tail,
        }
        return begin, files, b"]," + orjson.dumps(rest, option=orjson.OPT_NON_STR_KEYS)[1:]

    def content_length(self) -> int:
        """Count the bytes of the JSON answer."""
        begin, files, end = self._parts()
        commas = max(len(files) - 1, 0)
        return len(begin) + len(end) + commas + sum(map(_image_length, files))

    async def json_blocks(self) -> AsyncIterator[bytes]:
        """Give the JSON answer block by block."""
        begin, files, end = self._parts()
        pending = begin
        for index, output in enumerate(files):
            pending += b"," if index else b""
            if output.url is not None:
                pending += orjson.dumps(output.url)
                continue
            pending += b'"'
            if output.bytes <= SMALL_BYTES:
                pending += base64.b64encode(_read_whole(_path(output), output.bytes))
            else:
                async for block in base64_blocks(_path(output), output.bytes):
                    yield pending + block if pending else block
                    pending = b""
            pending += b'"'
        yield pending + end

    async def json(self) -> dict[str, Any]:
        """Give the whole answer as one object, base64 included, for platforms that want that."""
        whole: dict[str, Any] = orjson.loads(b"".join([b async for b in self.json_blocks()]))
        return whole


def _elsewhere(output: Output) -> bool:
    """Tell whether the answer is given again: the file went to storage, and from here."""
    return output.url is not None and output.text is None


def _image_length(output: Output) -> int:
    """Count the characters of an entry of `images`, its quotes included."""
    if output.url is not None:
        return len(orjson.dumps(output.url))
    return base64_length(output.bytes) + 2


def base64_length(size: int) -> int:
    """Count the characters of `size` bytes in base64."""
    return (size + 2) // 3 * 4


async def base64_blocks(path: Path, size: int) -> AsyncIterator[bytes]:
    """Read a file block by block as base64; a file that shrank meanwhile is an error.

    Raises:
        OSError: the file is not as long as it was.
    """
    source = _opened(path)  # not in a thread: a cancelled wait would leave it open
    left = size
    try:
        while left > 0:
            block = await asyncio.to_thread(_read_base64, source, min(BLOCK_BYTES, left))
            left -= BLOCK_BYTES
            yield block
    finally:
        source.close()


def _read_whole(path: Path, size: int) -> bytes:
    raw = path.read_bytes()
    if len(raw) != size:
        raise OSError(f"{path} is {'shorter' if len(raw) < size else 'longer'} than it was")
    return raw


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")


def _read_base64(source: Any, size: int) -> bytes:
    raw = source.read(size)
    if len(raw) != size:
        raise OSError(f"{source.name} is shorter than it was")
    return binascii.b2a_base64(raw, newline=False)


def _path(output: Output) -> Path:
    if output.path is None:
        raise ValueError(f"{output.filename} is a text")
    return output.path
