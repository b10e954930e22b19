"""The uploads of one job: each output is on its way while the rest of the graph still runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from handler.log_context import current_mark, job_context
from handler.pipeline.collect import open_output
from handler.pipeline.convert import Conversion
from handler.pipeline.told import announced_files, is_output
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from handler.delivery.base import Uploaded
    from handler.delivery.delivery import Delivery, Sent
    from handler.job import Job
    from handler.pipeline.stages import Parts, Received
    from handler.records import Graph, Output

TELL_EVERY_S = 0.5
Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Early:
    """What is done of one file before its stage comes: `final` is what was submitted."""

    read: asyncio.Task[Output]
    final: asyncio.Task[Output]


class Uploads:
    """The outputs of one job on their way to its targets.

    What a node announces is opened, described, converted and submitted in the background, in the
    order in which it is told. The stages that do this for other jobs find it done: they are given
    the same outputs, and are told the faults.
    """

    def __init__(self, received: Received, parts: Parts, delivery: Delivery) -> None:
        self._received = received
        self._parts = parts
        self._delivery = delivery
        self._conversion = Conversion(received, parts)
        self._mark = current_mark()
        self._early: dict[Key, _Early] = {}
        self._final: dict[Output, asyncio.Task[Output]] = {}
        self._turn = asyncio.Lock()  # opened one after the other, as they are collected
        self._newest: asyncio.Task[Output] | None = None

    def __repr__(self) -> str:
        return f"<Uploads of {self._received.job.id[:80]}: {len(self._early)} early>"

    def announce(self, node_id: str, told: Mapping[str, Any], graph: Graph) -> None:
        """Begin with the files of a node that has just finished. Returns at once."""
        request = self._received.request
        if request.archive is not None:  # one file of all: nothing goes before it is made
            return
        for item in announced_files(told):
            key = _key(node_id, item)
            if not is_output(item, temp=request.include_temp) or key in self._early:
                continue
            with job_context(self._mark):  # the engine's own task tells us
                read = asyncio.create_task(self._read(node_id, item, graph))
                final = asyncio.create_task(self._onward(read, self._newest))
            self._early[key] = _Early(read, final)
            self._newest = final

    async def _read(self, node_id: str, item: Mapping[str, Any], graph: Graph) -> Output:
        async with self._turn:
            return await open_output(item, node_id, graph, self._received, self._parts)

    async def _onward(
        self, read: asyncio.Task[Output], before: asyncio.Task[Output] | None
    ) -> Output:
        output = await self._conversion.of(await read)
        if before is not None:  # the first of two equal names keeps it at the target
            await asyncio.wait({before})
        await self._delivery.submit(output)
        return output

    async def read(self, node_id: str, item: Mapping[str, Any]) -> Output | None:
        """Give an announced file, described; None where nothing is done of it yet.

        Raises:
            EngineRefused, OSError: as `collect` has them.
        """
        early = self._early.get(_key(node_id, item))
        if early is None:
            return None
        output = await early.read
        self._final[output] = early.final
        return output

    async def converted(self, output: Output) -> Output | None:
        """Give what was submitted of an output that `read` gave; None of any other.

        Raises:
            ConversionFailed: as `convert` has it.
        """
        final = self._final.get(output)
        return None if final is None else await final

    async def finish(self, outputs: Sequence[Output]) -> list[Output]:
        """Upload what was not submitted, and wait for all.

        Returns:
            The outputs with their URLs.

        Raises:
            UploadFailed, UrlNotAllowed: as `Delivery.finish` has them.
        """
        return with_urls(outputs, await self._delivery.finish(outputs))

    async def close(self) -> None:
        """End what is under way."""
        try:
            await ended(
                task for early in self._early.values() for task in (early.final, early.read)
            )
        finally:
            await self._delivery.close()


@contextlib.asynccontextmanager
async def uploading(received: Received, parts: Parts) -> AsyncIterator[Uploads | None]:
    """Give the uploads of a job that has targets, and end them after; None for any other."""
    job, targets = received.job, received.request.targets
    if not targets:
        yield None
        return
    delivery = parts.providers().delivery(
        targets, job.id, on_progress=upload_teller(job), metrics=parts.metrics
    )
    uploads = Uploads(received, parts, delivery)
    try:
        yield uploads
    finally:
        await uploads.close()


def with_urls(outputs: Sequence[Output], stored: Sequence[tuple[Uploaded, ...]]) -> list[Output]:
    """Note where outputs are: the first target's URL is the output's."""
    return [
        replace(output, url=places[0].url, uploads=tuple(map(_entry, places))) if places else output
        for output, places in zip(outputs, stored, strict=True)
    ]


def upload_teller(job: Job) -> Callable[[Sent], None]:
    """Give what tells a job's followers how far each upload is."""
    told_at: dict[tuple[str, str], float] = {}

    def tell(news: Sent) -> None:
        place, now = (news.target, news.filename), time.monotonic()
        if job.phase.final:  # told by a thread that was left behind
            return
        if news.sent == news.size or now - told_at.get(place, -TELL_EVERY_S) >= TELL_EVERY_S:
            told_at[place] = now
            data = {"target": news.target, "filename": news.filename}
            job.tell("upload", {**data, "sent": news.sent, "size": news.size})

    return tell


def _entry(stored: Uploaded) -> dict[str, Any]:
    expires = {} if stored.expires_at is None else {"expires_at": stored.expires_at}
    return {
        "target": stored.target,
        "url": stored.url,
        "location": stored.location,
        **expires,
        "bytes": stored.bytes,
        "seconds": round(stored.seconds, 4),
        "etag": stored.etag,
        "started_ms": stored.started_ms,
        "ended_ms": stored.ended_ms,
    }


def _key(node_id: str, item: Mapping[str, Any]) -> Key:
    kind, subfolder = str(item.get("type") or "output"), str(item.get("subfolder") or "")
    return node_id, kind, subfolder, str(item["filename"])
