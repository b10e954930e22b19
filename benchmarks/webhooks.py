"""What asynchronous jobs leave behind: memory, threads, descriptors, and files in STATE_DIR."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from processes import family, rss_mb
from report import Measured, Table, counted
from shapes import SHAPES, noise_graph
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from targets import LOST, Target, TargetFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from report import Figures

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RETENTION_S = 20
# Records and outputs go within a quarter of their time after it, events after the longer one.
EXPIRED_S = RETENTION_S * 1.5 + 10
CALLERS = 4
PIXELS = 256
MOST_UNTOLD = 64  # a caller waits when so many are under way
MARKS = 4
TOLD_S = 60.0
ENV = {
    "WEBHOOK_SECRET": SECRET,
    "URL_ALLOW_HOSTS": "127.0.0.1",
    "JOB_RETENTION_S": str(RETENTION_S),
    "OUTPUT_RETENTION_S": str(RETENTION_S),
}
PARTS = {
    "records": "jobs/jobs/",
    "marks": "jobs/recent/",
    "active": "jobs/active/",
    "outputs": "jobs/outputs/",
    "events": "events/",
    "pending": "outbox/at-",
    "dead": "outbox/dead/",
}


@dataclass(slots=True)
class Hook:
    """A receiver that takes everything and verifies it.

    Attributes:
        told: posts by webhook-id.
        wrong: posts that are not what they should be, by why.
    """

    url: str = ""
    told: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        try:
            Webhook(SECRET).verify(body, {k.lower(): v for k, v in request.headers.items()})
        except WebhookVerificationError:
            self.wrong["signature"] += 1
        kind = json.loads(body)["type"]
        if kind != "prompt.complete":
            self.wrong[kind] += 1
        self.told[request.headers["webhook-id"]] += 1
        self.news.set()
        return web.Response()


@contextlib.asynccontextmanager
async def hooked() -> AsyncIterator[Hook]:
    hook = Hook()
    runner = web.ServerRunner(web.Server(hook.take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield hook
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Mark:
    """What there was at a moment.

    Attributes:
        files: in STATE_DIR, by part of it; `files["all"]` and `folders` are all that there are.
    """

    at: str
    jobs: int
    rss_mb: float
    threads: int
    descriptors: int
    files: dict[str, int]
    folders: int
    mb: float


def look(target: Target, at: str, jobs: int) -> Mark:
    state, proc = target.home / "state", Path(f"/proc/{target.pid}")
    files, folders, size = Counter[str](), 0, 0
    # Not by globs: files and folders come and go meanwhile.
    for folder, below, names in os.walk(state):
        folders += len(below)
        place = f"{os.path.relpath(folder, state)}/"
        for part in ("all", *(part for part, head in PARTS.items() if place.startswith(head))):
            files[part] += len(names)
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(f"{folder}/{name}").st_size
    rss = rss_mb(family(target.pid, target.engine_mark))
    threads, descriptors = (len(list((proc / name).iterdir())) for name in ("task", "fd"))
    counts = {part: files[part] for part in ("all", *PARTS)}
    return Mark(at, jobs, rss, threads, descriptors, counts, folders, size / (1 << 20))


async def webhooks(targets: list[Target], requests: int, max_s: float) -> Measured:
    """Many jobs with a webhook each, and what is left when their retention is over.

    The targets' environment must be `ENV`, and their STATE_DIR `{home}/state`.
    """
    head = ("target", "at", "jobs", "RSS MB", "threads", "fds", "state files", "state MB")
    head += (*PARTS, "errors")
    title = f"webhooks: {CALLERS} callers, {PIXELS} pixels, kept for {RETENTION_S} s"
    measured = Measured(Table(title, head))
    for target in targets:
        if target.spec.env.get("STATE_DIR") != "{home}/state":
            continue
        try:
            async with hooked() as hook, target:
                found = await _many(target, hook, requests, max_s)
        except TargetFailedError as error:
            measured.table.notes.append(f"{target.name} not measured: {error}")
            continue
        measured.figures[target.name] = found
        for mark in found["marks"]:
            row = (target.name, mark["at"], str(mark["jobs"]), f"{mark['rss_mb']:.1f}")
            row += (str(mark["threads"]), str(mark["descriptors"]), str(mark["files"]["all"]))
            row += (f"{mark['mb']:.1f}", *(str(mark["files"][part]) for part in PARTS))
            measured.table.rows.append((*row, counted(found["errors"])))
    return measured


async def _many(target: Target, hook: Hook, requests: int, max_s: float) -> Figures:
    errors, accepted, sent = Counter[str](), set[str](), 0
    marks = [look(target, "start", 0)]
    deadline = time.monotonic() + max_s

    async def call() -> None:
        nonlocal sent
        while sent < requests and time.monotonic() < deadline:
            sent += 1
            body = SHAPES[target.shape].body(noise_graph(PIXELS)) | {"webhook_v2": hook.url}
            try:
                answer = await target.post("/prompt", json.dumps(body).encode())
            except LOST as error:
                errors[type(error).__name__] += 1
                continue
            if answer.status != 202:
                errors[f"HTTP {answer.status}"] += 1
                continue
            accepted.add(answer.json()["id"])
            if len(marks) <= sent * MARKS / requests:
                marks.append(look(target, "under way", sent))
            while len(accepted) - len(hook.told) > MOST_UNTOLD and time.monotonic() < deadline:
                hook.news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hook.news.wait(), 1)

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    deadline = time.monotonic() + TOLD_S
    while (accepted - set(hook.told) or _letters(target)) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    marks.append(look(target, "all told", sent))
    await asyncio.sleep(EXPIRED_S)
    marks.append(look(target, "expired", sent))
    errors.update(hook.wrong)
    errors["not told"] = len(accepted - set(hook.told))
    errors["told twice"] = sum(count > 1 for count in hook.told.values())
    found = {name: count for name, count in errors.items() if count}
    return {"jobs": len(accepted), "marks": [asdict(mark) for mark in marks], "errors": found}


def _letters(target: Target) -> bool:
    return any((target.home / "state" / "outbox").glob("at-*/*"))
