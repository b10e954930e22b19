"""`POST /prompt`: a graph in, its outputs out, or the promise of them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from adapters.asgi_answer import AnswerResponse, Form, accepted_form
from adapters.asgi_json import Json, refusal
from adapters.asgi_paths import job_path
from adapters.asgi_streams import unless_gone
from adapters.calls import Call, read_call
from handler.answer_limit import too_late
from handler.errors import Conflict, HandlerError, InvalidPayload, ResultGone, StateUnavailable
from handler.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response

    from adapters.asgi_body import JsonBodies
    from handler.entrance import Entry
    from handler.service import Handler
    from handler.wire import Answer

LONGEST_WAIT_S = 3600
LATER = "respond-async"
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_READ = 4096  # characters of a Prefer header


class PromptRoute:
    """The route.

    Args:
        most_bytes: of a body.
        how: what holds for every payload that comes here.
    """

    def __init__(
        self, handler: Handler, bodies: JsonBodies, most_bytes: int, how: Submission | None = None
    ) -> None:
        self._handler = handler
        self._bodies = bodies
        self._most_bytes = most_bytes
        self._how = how or Submission()

    async def prompt(self, request: Request) -> Response:
        """Run a graph and answer with its outputs; the client going away cancels it.

        Whoever does not wait gets 202 and asks for the job later.
        """
        how = submission(request.headers, self._how)
        until = asyncio.get_running_loop().time() + how.answer_within_s
        wait_s = wait_of(request.headers) if how.respond_async else 0
        if how.answer_within_s:
            wait_s = min(wait_s, int(how.answer_within_s))
        form = accepted_form(request.headers.get("accept", ""))
        call = _call_of(await self._bodies.read(request, self._most_bytes))
        try:
            entry = await self._handler.enter(call.payload, how)
        except Conflict as fault:
            if fault.location == "key":
                fault.location = "header.Idempotency-Key"
            raise
        call = replace(call, payload={})  # may be most of our memory
        headers = {"X-Comfyfn-Id": quote(entry.id, safe="")}
        if entry.job is not None:
            headers["traceparent"] = entry.job.trace.header
        if how.key is not None and entry.mine is None:
            headers["Idempotent-Replayed"] = "true"
        try:
            if not entry.asynchronous:
                answer = await self._in_time(request, entry, until)
                if call.worker_comfyui:
                    async with answer:
                        return Json(call.answer(await answer.json()), headers=headers)
                return AnswerResponse(answer, form, headers)
            early = await self._early(request, entry, form, headers, wait_s) if wait_s else None
        except HandlerError as fault:
            return refusal(fault, headers)
        if early is not None:
            return early
        headers["Location"] = job_path(entry.id)
        if how.respond_async:
            headers["Preference-Applied"] = LATER
        return Json(entry.accepted, status_code=202, headers=headers)

    async def _in_time(self, request: Request, entry: Entry, until: float) -> Answer:
        """Wait for the answer, but not until the connection is cut by who is between.

        Args:
            until: by the loop's clock, where there is a limit at all.

        Raises:
            AnswerTooLate: it took too long. With a key the job goes on: its caller can come again;
                without, nobody could have its result, and it is cancelled.
        """
        try:
            async with asyncio.timeout_at(until if self._how.answer_within_s else None) as deadline:
                return await unless_gone(request, self._handler.answer(entry))
        except TimeoutError as error:
            if not deadline.expired():
                raise
            goes_on = entry.job is not None and entry.job.key is not None
            raise too_late(self._how.answer_within_s, goes_on=goes_on) from error

    async def _early(
        self, request: Request, entry: Entry, form: Form, headers: dict[str, str], wait_s: int
    ) -> Response | None:
        """Answer with the result if it is there in time; the job goes on in any case."""
        result = self._handler.stored.answer(entry.record, entry.job, entry.head)
        try:
            async with asyncio.timeout(wait_s):
                answer = await unless_gone(request, result)
        except (TimeoutError, ResultGone, StateUnavailable):
            return None
        return AnswerResponse(answer, form, {**headers, "Preference-Applied": f"wait={wait_s}"})


def _call_of(body: Any) -> Call:
    """Read worker-comfyui's form; every other body is the handler's to judge."""
    theirs = isinstance(body, dict) and "prompt" not in body and "workflow" in body
    return read_call(body) if theirs else Call(body)


def submission(headers: Headers, how: Submission | None = None) -> Submission:
    """Read what the headers say about how a payload is to be taken.

    Args:
        how: what holds whatever they say.

    Raises:
        InvalidPayload: of the idempotency key.
    """
    keys = headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(_KEY.fullmatch, keys)):
        raise InvalidPayload(
            "Idempotency-Key: one text of 1 to 255 printable ASCII characters",
            location="header.Idempotency-Key",
        )
    return replace(
        how or Submission(),
        key=f"http:{keys[0]}" if keys else None,
        respond_async=LATER in preferences(headers.getlist("prefer")),
        traceparent=headers.get("traceparent", ""),
    )


def preferences(values: Iterable[str]) -> dict[str, str]:
    """Read `Prefer` headers (RFC 7240): names in lower case, of each the first value."""
    found: dict[str, str] = {}
    for one in ",".join(values)[:_READ].split(","):
        name, _, value = one.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    found.pop("", None)
    return found


def wait_of(headers: Headers) -> int:
    """Give how many seconds the client would wait before it is told to come again; 0 for none."""
    text = preferences(headers.getlist("prefer")).get("wait", "")
    decimal = text.isascii() and text.isdecimal()
    return int(text) if decimal and len(text) < 5 and int(text) <= LONGEST_WAIT_S else 0
