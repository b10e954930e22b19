"""Answers that are sent while they are made, and what becomes of them when the client goes away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from starlette.responses import StreamingResponse

from handler.errors import JobCancelled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class Streamed(StreamingResponse):
    """Sends blocks, and closes what gives them in any case.

    Args:
        blocks: closed at the end, also where the client left in the middle.
        close: called after that; for what a generator that never began cannot close.
    """

    def __init__(
        self,
        blocks: AsyncGenerator[bytes, None],
        *,
        close: Callable[[], Awaitable[None]] | None = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(blocks, status_code=status_code, headers=headers)
        self._blocks = blocks
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._blocks.aclose()
            if self._close is not None:
                await self._close()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for something as long as the client does.

    Raises:
        JobCancelled: the client went away; the work is cancelled.
    """
    result = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise JobCancelled("the client went away")
    finally:
        gone.cancel()
        if not result.done():
            result.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def in_threads(blocks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give the blocks of a blocking generator, each made in a thread."""
    step: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
            block = await asyncio.shield(step)
            if block is None:
                return
            yield block
    finally:
        if step is None or step.done():
            _close(blocks)
        else:  # a generator cannot be closed while a thread is in it
            step.add_done_callback(lambda done: _close(blocks, done))


def _close(blocks: Iterator[bytes], step: asyncio.Future[bytes | None] | None = None) -> None:
    if step is not None and not step.cancelled():
        step.exception()  # nobody waits for it any more
    close = getattr(blocks, "close", None)
    if close is not None:
        close()
