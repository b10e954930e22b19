"""A server that speaks our HTTP API; or comfyui-api, which answers with the result or not at all.

A job of ours is begun under an idempotency key and an id of its own: whatever breaks, it is sent
again and is the same job. Its events are followed, and gone on with by `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from handler.endpoints import calls_endpoint
from handler.errors import HandlerError, JobCancelled, NotFound
from local_server.remote.base import Pace, named, show, stoppable
from local_server.remote.faults import failure_of, failure_of_response, json_of
from local_server.remote.link import read
from local_server.remote.result import Result, Thing, result_of
from local_server.remote.sse import Event, SseReader, lines_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from local_server.remote.base import Teller
    from local_server.remote.link import Link

SILENT_STREAM_S = 50.0
"""Events come at least every 15 s, be it a comment."""
NOT_HERE_TRIES = 40
NOT_HERE_PAUSE_S = 0.25
_NOT_KEPT = "OUTPUT_RETENTION_S"
_CALL = re.compile(r"/jobs/fc-[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A job that is there.

    Attributes:
        path: where it is asked for.
        answer: its whole answer, where the server gave that at once.
    """

    path: str
    answer: dict[str, Any] | None = None


class HttpRemote:
    """A server.

    Args:
        link: to it.
        pace: between two questions, where there are no events to follow.
    """

    def __init__(self, link: Link, pace: Pace | None = None) -> None:
        self._link = link
        self._pace = pace or Pace()
        self._held = False

    async def close(self) -> None:
        """Let go of connections."""
        await self._link.close()

    async def run(self, payload: dict[str, Any], teller: Teller) -> Result:
        """Run a payload there; see `Remote`."""
        payload, job_id = named(payload)
        ours = await self._keeps_jobs(teller)
        path = f"/jobs/{quote(job_id, safe='')}"
        begin = self._begin if ours else self._plain
        stop = partial(self._cancel, path) if ours else partial(self._interrupt, job_id)
        return await stoppable(
            begin(payload, path, teller),
            partial(self._outcome, job_id, path, teller),
            lambda begun: self._cancel(begun.path) if ours else stop(),
            early=partial(self._early, stop),
            quit_=self._link.quit,
        )

    async def _keeps_jobs(self, teller: Teller) -> bool:
        """Ask whether jobs can be asked for there, and wait until the server answers."""
        try:
            response = await self._link.send("GET", "/jobs?limit=1", teller=teller)
        except HandlerError as fault:
            if fault.status in {404, 405}:
                return False
            raise
        body = json_of(response)
        return isinstance(body, dict) and "jobs" in body

    async def _begin(self, payload: dict[str, Any], path: str, teller: Teller) -> _Begun:
        """Hand the job over; with its answer where the server did not answer early."""
        headers = {
            "Accept": "application/json",
            "Idempotency-Key": f"comfyfn-run-{uuid.uuid4()}",
            "Prefer": "respond-async",
        }
        send = partial(self._link.send, "POST", "/prompt", json=payload, teller=teller)
        teller.say("waits to be taken")
        try:
            response = await send(headers=headers)
        except HandlerError as fault:
            if _NOT_KEPT not in (fault.hint or ""):
                raise
            del headers["Prefer"]  # nothing is kept there: the connection brings the result
            self._held = True
            response = await send(headers=headers, timeout=_patient(), again=False)
        if response.status_code != 202:
            return _Begun(path, _answer(response))
        told = response.headers.get("location", "")
        return _Begun(told if _CALL.fullmatch(told) else path)

    async def _plain(self, payload: dict[str, Any], path: str, teller: Teller) -> _Begun:
        """Have the job done by a server that knows no jobs."""
        route, body = "/prompt", payload
        if calls_endpoint(payload):
            route = f"/workflow/{quote(payload['workflow'])}"
            body = {name: value for name, value in payload.items() if name != "workflow"}
        teller.say("running (the server tells no progress)")
        self._held = True
        response = await self._link.send(
            "POST", route, json=body, timeout=_patient(), again=False, teller=teller
        )
        return _Begun(path, _answer(response))

    async def _outcome(self, job_id: str, path: str, teller: Teller, begun: _Begun) -> Result:
        if begun.answer is not None:
            return result_of(begun.answer)
        if begun.path != path:
            return await self._polled(begun.path, teller)
        told = await self._followed(path, teller)
        return Result(job_id, [_thing(path, facts) for facts in told])

    async def _polled(self, path: str, teller: Teller) -> Result:
        """Ask for the result of a job that became a call of Modal's: it tells no events."""
        teller.say("queued or running (Modal tells no progress)")
        while True:
            response = await self._link.send("GET", f"{path}/result", teller=teller)
            if response.status_code != 202:
                return result_of(_answer(response))
            await self._pace.wait(None)

    async def _followed(self, path: str, teller: Teller) -> list[dict[str, Any]]:
        """Follow the events to the end, and give the outputs as they are told there."""
        last, missing = "", 0
        while True:
            headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
            headers |= {"Last-Event-ID": last} if last else {}
            reader = SseReader(last)
            try:
                async with self._link.stream(f"{path}/events", headers) as response:
                    if response.status_code == 204:
                        return await self._ended(path)
                    if response.status_code == 404 and missing < NOT_HERE_TRIES:
                        missing += 1  # another worker behind the same address has it
                        await asyncio.sleep(NOT_HERE_PAUSE_S)
                        continue
                    await _open(response, self._link.base)
                    end = await self._read(response, reader, teller)
                    if end is not None:
                        return _outputs(end)
                    await self._link.lost(EOFError("the events broke off"))
            except httpx.TransportError as error:
                await self._link.lost(error)
            if reader.last_id != last:
                last = reader.last_id
                self._link.forget()

    async def _read(
        self, response: httpx.Response, reader: SseReader, teller: Teller
    ) -> Event | None:
        """Show events; give the one that ends the job, or None where the stream just ends."""
        lines = lines_of(response.aiter_bytes())
        while True:
            try:
                async with asyncio.timeout(SILENT_STREAM_S):
                    line = await anext(lines)
            except StopAsyncIteration:
                return None
            except TimeoutError as error:
                raise httpx.ReadTimeout("the events went silent") from error
            event = reader.feed(line)
            if event is None:
                continue
            if event.final:
                return event
            show(event.type, event.data, teller)

    async def _ended(self, path: str) -> list[dict[str, Any]]:
        """Ask how a job ended whose events are gone."""
        response = await self._link.send("GET", path)
        told = json_of(response)
        if not isinstance(told, dict) or not isinstance(told.get("status"), str):
            raise NotFound(f"{self._link.base} knows nothing of the job any more")
        return _outputs(Event("", told["status"], {**told, **(told.get("error") or {})}))

    async def _early(self, stop: Callable[[], Awaitable[None]]) -> bool:
        """Stop a job while its request is under way, where that brings the result alone."""
        if self._held:
            await stop()
        return self._held

    async def _cancel(self, path: str) -> None:
        await self._link.send("POST", f"{path}/cancel")

    async def _interrupt(self, job_id: str) -> None:
        with contextlib.suppress(HandlerError):  # 404: it was over
            await self._link.send("POST", "/interrupt", json={"id": job_id})


def _thing(path: str, facts: dict[str, Any]) -> Thing:
    if isinstance(facts.get("name"), str) and not isinstance(facts.get("text"), str):
        return Thing(facts, path=f"{path}/outputs/{quote(facts['name'], safe='')}")
    url = facts.get("url")
    return Thing(facts, url=url if isinstance(url, str) else None)


def _patient() -> httpx.Timeout:
    return httpx.Timeout(None, connect=15.0)


def _answer(response: httpx.Response) -> dict[str, Any]:
    body = json_of(response)
    if not isinstance(body, dict):
        raise failure_of(
            {"error": "the server's answer is no JSON object", "code": "platform_error"}
        )
    return body


async def _open(response: httpx.Response, base: str) -> None:
    """Make sure that an answer is a stream of events."""
    if response.status_code == 200:
        return
    response = await read(response)
    if response.status_code in {429, 500, 502, 503, 504}:
        raise httpx.RemoteProtocolError(f"{response.status_code}")
    raise failure_of_response(response, base)


def _outputs(end: Event) -> list[dict[str, Any]]:
    """Give the outputs of a job that succeeded.

    Raises:
        HandlerError: it did not.
    """
    if end.type == "cancelled":
        raise JobCancelled(str(end.data.get("error") or "the job was cancelled there"))
    if end.type != "succeeded":
        raise failure_of(end.data)
    outputs = end.data.get("outputs")
    return [one for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
