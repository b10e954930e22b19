"""Long jobs over HTTP on Modal: a request lasts 150 s at most there, a call as long as it takes.

`POST /prompt` with `Prefer: respond-async`, or with a webhook, becomes a call of its own: 202 with
`Location: /jobs/fc-...`, which answers as `/jobs/{id}` does. So a job that nobody waits for is an
input that Modal counts, and no container is taken away under it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute, Route

from adapters.asgi_body import JsonBodies
from adapters.asgi_json import Json
from adapters.asgi_prompt import LATER, PromptRoute, submission, wait_of
from adapters.modal_jobs import NAME
from handler.endpoints import calls_endpoint
from handler.errors import InvalidPayload
from handler.payload import parse_payload
from handler.records import TARGET_KINDS
from handler.submission import Submission

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from adapters.modal_calls import Calls
    from handler.service import Handler


class CallId(Convertor[str]):
    """The id of a call, as Modal draws them."""

    regex = r"fc-[A-Za-z0-9]+"

    def convert(self, value: str) -> str:
        """Give it as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Give it as it is."""
        return value


register_url_convertor("modal_call", CallId())
_KEYS = uuid.UUID("5d3c1a5e-5b0f-4c58-9a36-0f1f6f6f2f10")
"""Ids of jobs are drawn from idempotency keys in it."""


class _Read(JsonBodies):
    """A body that was read already, for the route that would read it."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self._body = body

    async def read(self, request: Request, limit: int) -> Any:  # noqa: ARG002
        """Give it."""
        return self._body


def call_routes(
    handler: Handler, bodies: JsonBodies, calls: Calls, most_bytes: int
) -> list[BaseRoute]:
    """List the routes; they come before those of the same paths.

    Args:
        most_bytes: of a body.
    """
    routes = CallRoutes(handler, bodies, calls, most_bytes)
    call = "/jobs/{id:modal_call}"
    return [
        Route("/prompt", routes.prompt, methods=["POST"]),
        Route(f"{call}/result", routes.result, methods=["GET"]),
        Route(f"{call}/cancel", routes.cancel, methods=["POST"]),
        Route(call, routes.call, methods=["GET"]),
    ]


class CallRoutes:
    """The routes, one method each."""

    def __init__(self, handler: Handler, bodies: JsonBodies, calls: Calls, most_bytes: int) -> None:
        self._handler = handler
        self._bodies = bodies
        self._calls = calls
        self._most_bytes = most_bytes

    async def prompt(self, request: Request) -> Response:
        """Run a graph; whoever does not wait is told where to ask."""
        how = submission(request.headers, Submission(adapter=NAME))
        body = await self._bodies.read(request, self._most_bytes)
        if not how.respond_async and not _hooked(body):
            route = PromptRoute(
                self._handler, _Read(body), self._most_bytes, Submission(adapter=NAME)
            )
            return await route.prompt(request)
        key = how.key.removeprefix("http:") if how.key is not None else None
        payload = _checked(body, key)
        call_id = await self._calls.spawn(payload, key)
        wait_s = wait_of(request.headers) if how.respond_async else 0
        if wait_s:
            found = await self._calls.poll(call_id, wait_s)
            if found is not None:
                return _told(found, {"Preference-Applied": f"wait={wait_s}"})
        headers = {"Location": f"/jobs/{call_id}", "X-Comfyfn-Id": call_id}
        if how.respond_async:
            headers["Preference-Applied"] = LATER
        accepted = {"id": payload["id"], "call_id": call_id, "status": "ok"}
        return Json(accepted, status_code=202, headers=headers)

    async def call(self, request: Request) -> Response:
        """Tell how a call is."""
        call_id = request.path_params["id"]
        return Json(record(call_id, await self._calls.poll(call_id)))

    async def result(self, request: Request) -> Response:
        """Give what came of it; 202 while there is nothing."""
        call_id = request.path_params["id"]
        found = await self._calls.poll(call_id)
        if found is not None:
            return _told(found)
        body = {"id": call_id, "status": "running"}
        return Json(body, status_code=202, headers={"Retry-After": "1"})

    async def cancel(self, request: Request) -> Response:
        """Stop it, wherever it is."""
        call_id = request.path_params["id"]
        over = await self._calls.poll(call_id)
        if over is None:
            await self._calls.cancel(call_id)
        status = "cancelled" if over is None else record(call_id, over)["status"]
        return Json({"id": call_id, "status": status, "cancelled": over is None})


def _hooked(body: Any) -> bool:
    """Tell whether a payload reads so that its caller does not wait for the result."""
    if not isinstance(body, dict):
        return False
    targets = [body[kind] for kind in TARGET_KINDS if kind in body]
    later = any(isinstance(one, dict) and one.get("async") is True for one in targets)
    return later or bool(body.get("webhook") or body.get("webhook_v2"))


def _checked(body: Any, key: str | None) -> dict[str, Any]:
    """Refuse now what no worker would take, and give it an id, which the webhook tells, too.

    Args:
        key: whoever sends it again means the same payload, and so the same id.

    Raises:
        InvalidPayload: it does not fit the schema.
    """
    if not isinstance(body, dict):
        raise InvalidPayload("the body must be a JSON object")
    if not calls_endpoint(body):
        parse_payload(body)
    drawn = uuid.uuid4() if key is None else uuid.uuid5(_KEYS, key)
    return {**body, "id": body.get("id") or str(drawn)}


def failed(found: dict[str, Any]) -> bool:
    """Tell an error's envelope from an answer."""
    status = found.get("statusCode")
    known = isinstance(status, int) and 400 <= status < 600
    return known and "code" in found and "error" in found


def _told(found: dict[str, Any], headers: dict[str, str] | None = None) -> Json:
    status = found["statusCode"] if failed(found) else 200
    return Json(found, status_code=status, headers=headers)


def record(call_id: str, found: dict[str, Any] | None) -> dict[str, Any]:
    """Give a call as `/jobs/{id}` tells a job: what Modal does not know is null.

    Args:
        found: what came of it; None while it runs.
    """
    told: dict[str, Any] = {
        "id": call_id,
        "status": "running",
        "created_at": None,
        "finished_at": None,
        "progress": None,
        "outputs": [],
        "stats": None,
        "error": None,
    }
    if found is None:
        return told
    if failed(found):
        status = "cancelled" if found["code"] == "cancelled" else "failed"
        return {**told, "status": status, "error": found, "stats": found.get("stats")}
    return {
        **told,
        "status": "succeeded",
        "outputs": found.get("outputs", []),
        "stats": found.get("stats"),
    }
