"""A worker on the engine in memory behind a real HTTP server, and ways to drive it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from worker import GRAPH, serving, until, worker

from adapters.asgi import make_app
from handler.engine.events import NodeStarted, Started
from handler.engine.memory import MemoryEngine, save_pictures
from handler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from handler.engine.base import EnginePrompt
    from handler.engine.events import EngineEvent
    from handler.engine.files import EngineFiles
    from handler.job import Job, Phase
    from handler.service import Handler

PAYLOAD: dict[str, Any] = {"prompt": GRAPH, "id": "me"}
LATER = {"Prefer": "respond-async"}


@contextlib.asynccontextmanager
async def served(
    home: Any, settings: Settings | None = None, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Handler, MemoryEngine]]:
    """A client, the handler and the engine behind it."""
    settings = settings or Settings()
    async with (
        worker(home, settings, **options) as (handler, engine),
        serving(make_app(handler, settings)) as client,
    ):
        yield client, handler, engine


class Gate:
    """A script that waits until it is let on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(
        self, prompt: EnginePrompt, files: EngineFiles
    ) -> AsyncIterator[EngineEvent]:
        yield Started(1)
        yield NodeStarted("1")
        await self.open.wait()
        async for event in save_pictures(prompt, files):
            if not isinstance(event, Started):
                yield event


async def in_phase(handler: Handler, job_id: str, phase: Phase) -> Job:
    """Wait until a job is in a phase."""
    await until(lambda: (job := handler.find(job_id)) is not None and job.phase is phase)
    job = handler.find(job_id)
    assert job is not None
    return job


def fault(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check an error and give its body."""
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert (body["code"], body["statusCode"]) == (code, status)
    return body


def told(text: str) -> list[dict[str, str]]:
    """Read server-sent events: those that are any, with their fields."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        fields.pop("retry", None)
        found += [fields] if fields else []
    return found
