"""A job's events as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import orjson

from handler.errors import HandlerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from handler.state.event_log import LoggedEvent

log = logging.getLogger("comfyfn.http")
KEEPALIVE_S = 15.0
RETRY_MS = 2000
LONGEST_EVENT_ID = 18  # digits; no job tells so much, and Python refuses to read thousands


def event_id(text: str) -> int:
    """Read a `Last-Event-ID`; what is none of ours resumes nothing."""
    decimal = text.isascii() and text.isdecimal()
    return int(text) if decimal and len(text) <= LONGEST_EVENT_ID else 0


def frame(event: LoggedEvent) -> bytes:
    """Write one event."""
    data = orjson.dumps(event.data, option=orjson.OPT_NON_STR_KEYS)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), data)


async def sse(
    events: AsyncIterator[LoggedEvent],
    first: LoggedEvent | None = None,
    keepalive_s: float = KEEPALIVE_S,
) -> AsyncGenerator[bytes, None]:
    """Frame events; a comment in every silence keeps proxies from closing.

    Args:
        first: taken from them before.
    """
    pending: asyncio.Future[LoggedEvent] | None = None
    try:
        yield b"retry: %d\n" % RETRY_MS  # sent at once: the listener sees that it is heard
        if first is not None:
            yield frame(first)
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=keepalive_s)
            if not done:
                yield b": still here\n\n"
                continue
            event, pending = pending.result(), None
            yield frame(event)
    except StopAsyncIteration:
        return
    except HandlerError as fault:  # who comes again is told in the proper form
        log.warning("events broke off: %s", fault.message)
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, HandlerError):
                await pending
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
