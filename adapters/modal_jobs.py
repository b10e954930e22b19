"""One call on Modal: a payload in, its answer or its error out, as plain JSON values.

Nothing here needs Modal: whoever calls tells the input's id, and whether its caller cancelled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from adapters.calls import Call, read_call
from handler.errors import HandlerError, InternalFault
from handler.submission import Submission

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from handler.entrance import Entry
    from handler.job import JobEvent
    from handler.service import Handler

log = logging.getLogger("comfyfn.modal")
NAME = "modal"


def _always() -> bool:
    return True


def submission(input_id: str | None, key: str | None = None) -> Submission:
    """Say how a call came.

    An input that is delivered again, since its container was lost, must not run a second time.

    Args:
        input_id: Modal's name of it, the same at every delivery.
        key: the caller's idempotency key, which holds over calls.
    """
    own = f"{NAME}:{input_id}" if input_id else None
    return Submission(adapter=NAME, key=f"http:{key}" if key else own, waits=True)


async def run(
    handler: Handler,
    given: Any,
    how: Submission,
    cancelled: Callable[[], bool] = _always,
) -> dict[str, Any]:
    """Do a job to its end.

    Args:
        given: a payload in any form of `read_call`.
        cancelled: asked when this call is cancelled: whether its caller wants that. A container
            that is taken away cancels all of its calls, and Modal delivers them elsewhere.

    Returns:
        The answer in the caller's form, or the error's envelope.
    """
    call = Call({})
    try:
        call = read_call(given)
        entry = await handler.enter(call.payload, how)
        try:
            async with await handler.answer(entry) as answer:
                return call.answer(await answer.json())
        except asyncio.CancelledError:
            if cancelled():
                handler.cancel(entry.id)
            raise
    except HandlerError as error:
        return call.failure(error.envelope())
    except Exception as error:
        log.exception("a fault of ours")
        return call.failure(InternalFault.of(error).envelope())


async def stream(
    handler: Handler,
    given: Any,
    how: Submission,
    cancelled: Callable[[], bool] = _always,
) -> AsyncGenerator[dict[str, Any], None]:
    """Do a job and tell of it: `{"type", "data"}` by event, then the answer or the error.

    The events are those of `GET /jobs/{id}/events`; outputs are told as their nodes finish. The
    last item is of type `answer`, or `error` with the envelope.
    """
    call = Call({})
    try:
        call = read_call(given)
        entry = await handler.enter(call.payload, how)
        try:
            async with contextlib.aclosing(_events(entry)) as events:
                async for event in events:
                    if not event.final:
                        yield {"type": event.type, "data": event.data}
            async with await handler.answer(entry) as answer:
                whole = call.answer(await answer.json())
        except (asyncio.CancelledError, GeneratorExit):
            if cancelled():
                handler.cancel(entry.id)
            raise
        yield {"type": "answer", "data": whole}
    except HandlerError as error:
        yield {"type": "error", "data": call.failure(error.envelope())}


async def _events(entry: Entry) -> AsyncGenerator[JobEvent, None]:
    """Give the events of a job; of one that is over, or runs elsewhere, there are none."""
    if entry.job is not None:
        async with contextlib.aclosing(entry.job.follow()) as events:
            async for event in events:
                yield event
