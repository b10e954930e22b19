"""The route that Salad's queue worker brings jobs to.

The worker reads the status alone: 2xx and 4xx end a job with the body as its output, but 408, 429
and 5xx have it sent again, as a lost connection does. So what another try cannot mend is 4xx here,
whatever its status is elsewhere, and everything else 5xx.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from adapters.asgi_json import Json
from adapters.asgi_streams import unless_gone
from adapters.calls import Call, read_call
from handler.errors import HandlerError, InternalFault, JobCancelled, ResultTooLarge
from handler.health import Health
from handler.submission import Submission

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from adapters.asgi_body import JsonBodies
    from handler.entrance import Entry
    from handler.service import Handler

log = logging.getLogger("comfyfn.salad")
MOST_BYTES = 9_900_000
"""Of an answer: the queue's messages hold 10 MB, and the job's id is in them, too."""

HOLD_S = 10.0
_JOB_ID = re.compile(r"[\x21-\x7e]{1,200}")


class QueueRoute:
    """The route, an ASGI application.

    Args:
        most_body: bytes of a job's input.
        most_bytes: of an answer.
        hold_s: how long a job that comes to a worker on its way down is held.

    Attributes:
        in_hand: how many jobs are not answered to the last byte.
    """

    def __init__(
        self,
        handler: Handler,
        bodies: JsonBodies,
        *,
        most_body: int,
        most_bytes: int = MOST_BYTES,
        hold_s: float = HOLD_S,
    ) -> None:
        self._handler = handler
        self._bodies = bodies
        self._most_body = most_body
        self._most_bytes = most_bytes
        self._hold_s = hold_s
        self.in_hand = 0

    def __repr__(self) -> str:
        return f"<QueueRoute {self.in_hand} in hand>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one job and answer."""
        self.in_hand += 1
        try:
            answer = await self._answer(Request(scope, receive))
            await answer(scope, receive, send)
        finally:
            self.in_hand -= 1

    async def _answer(self, request: Request) -> Response:
        call = Call({})
        try:
            given = await self._bodies.read(request, self._most_body)
            await self._hold(request)
            call = read_call(given)
            del given  # may be most of our memory
            told = call.answer(await self._run(request, call))
            body = await asyncio.to_thread(orjson.dumps, told, option=orjson.OPT_NON_STR_KEYS)
            if len(body) > self._most_bytes:
                raise ResultTooLarge(
                    f"the answer is {len(body)} bytes, and the queue brings {self._most_bytes}",
                    hint="name an upload in the request, or set OUTPUT_STORAGE",
                )
        except HandlerError as fault:
            return _failure(call, fault)
        except Exception as error:
            log.exception("a job of the queue: a fault of ours")
            return _failure(call, InternalFault.of(error))
        return Response(body, media_type="application/json")

    async def _hold(self, request: Request) -> None:
        """Hold a job that comes too late: refused at once, the worker would refuse the next, too.

        Each of them would lose one of its few tries. So the worker has one until it is ended.

        Raises:
            JobCancelled: it was.
        """
        if self._handler.health().health in (Health.DRAINING, Health.STOPPED):
            # It must not be found by a worker that waits until nothing is in hand.
            self.in_hand -= 1
            try:
                await unless_gone(request, asyncio.sleep(self._hold_s))
            finally:
                self.in_hand += 1

    async def _run(self, request: Request, call: Call) -> dict[str, Any]:
        job_id = request.headers.get("salad-job-id", "")
        how = Submission(
            adapter="salad",
            key=f"salad:{job_id}" if _JOB_ID.fullmatch(job_id) else None,
            waits=True,
            inline_bytes=self._most_bytes,
            retries=True,  # a job whose end was told comes again where that was 5xx alone
            traceparent=request.headers.get("traceparent", ""),
        )
        entry = await self._handler.enter(call.payload, how)
        try:
            answer = await unless_gone(request, self._handler.answer(entry))
        except JobCancelled:
            self._stop(entry)
            raise
        async with answer:
            return await answer.json()

    def _stop(self, entry: Entry) -> None:
        """End a job whose worker went away; it is sent again, and must then be run anew."""
        job = entry.mine
        if job is not None and not job.phase.final:
            job.stopped = True
            self._handler.cancel(entry.id)


def queue_status(fault: HandlerError) -> int:
    """Give the status that has a job sent again where that may help, and ended where not."""
    if fault.retryable or fault.blame == "platform":
        return fault.status if fault.status >= 500 else 503
    refused = 400 <= fault.status < 500 and fault.status not in (408, 429)
    return fault.status if refused else 422


def _failure(call: Call, fault: HandlerError) -> Json:
    return Json(call.failure(fault.envelope()), status_code=queue_status(fault))
