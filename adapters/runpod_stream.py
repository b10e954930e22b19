"""A RunPod job as a stream: its outputs as nodes finish, and the answer without them last.

An item may have 1 MB. What is larger is told without its bytes, and where it can be had; so is what
would make all items together larger than a result may be.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from adapters.runpod_result import CHUNK_BYTES
from handler.pipeline.told import announced_files, is_output
from handler.records import JOBS_FOLDER, TARGET_KINDS
from handler.wire import base64_length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from adapters.runpod_job import Given
    from adapters.runpod_work import Work
    from handler.engine.boot import Site
    from handler.entrance import Entry
    from handler.job import Job
    from handler.records import Output
    from handler.wire import Answer

_HEAD_BYTES = 2000
"""Of an item, beside its base64."""
_TOO_LARGE = (
    "too large for an item of a stream: name a storage in the request, or read the job's result "
    "by a worker that does not stream"
)


class JobStream:
    """One job's items; make it in the handler's loop.

    Args:
        site: where the engine's files are.
    """

    def __init__(
        self,
        work: Work,
        site: Site,
        job: dict[str, Any],
        post: Callable[[dict[str, Any]], None],
    ) -> None:
        self._work = work
        self._site = site
        self._job = job
        self._post = post
        self._items: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._sent: set[tuple[str, str]] = set()
        self._left = 0
        self._task = asyncio.ensure_future(self._run())

    async def next(self) -> dict[str, Any] | None:
        """Give the next item; None after the last."""
        return await self._items.get()

    async def close(self) -> None:
        """End the job, unless it is over."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            for item in await self._all():
                self._items.put_nowait(item)
        except Exception as error:  # noqa: BLE001 - told to the caller, and to the log
            envelope = self._work.failed(error)
            refresh = envelope.pop("refresh_worker", False)
            # The SDK ends at an item that has `error`, and keeps nothing of it but that text.
            told = {key: value for key, value in envelope.items() if key != "error"}
            self._items.put_nowait({"type": "failed", **told})
            self._items.put_nowait({"error": envelope["error"], "refresh_worker": refresh})
        finally:
            self._items.put_nowait(None)

    async def _all(self) -> list[dict[str, Any]]:
        given = await self._work.begin(self._job)
        self._left = given.limit - CHUNK_BYTES  # the last item's
        return await self._work.entered(given, partial(self._of, given))

    async def _of(self, given: Given, entry: Entry) -> list[dict[str, Any]]:
        early: asyncio.Task[None] | None = None
        if entry.job is not None and _as_they_are(given):
            early = asyncio.ensure_future(self._early(entry.job, given))
        async with self._work.accompanied(entry, self._job, self._post):
            try:
                async with await self._work.answer(entry, given) as answer:
                    return await asyncio.to_thread(self._late, answer)
            finally:
                if early is not None:
                    early.cancel()
                    await asyncio.gather(early, return_exceptions=True)

    async def _early(self, job: Job, given: Given) -> None:
        """Give each file when its node has finished."""
        temp = bool(given.call.payload.get("include_temp"))
        async with contextlib.aclosing(job.follow()) as following:
            async for event in following:
                if event.type != "output":
                    continue
                for told in announced_files(event.data["output"]):
                    if is_output(told, temp=temp):
                        await self._early_file(job, event.data, told)

    async def _early_file(self, job: Job, node: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        path = self._place(job, told)
        name = str(told["filename"])
        with contextlib.suppress(OSError):
            if path is None or not self._fits(path.stat().st_size):
                return
            data = await asyncio.to_thread(path.read_bytes)
            item = {"type": "output", "node_id": node["node_id"], "title": node["title"]}
            self._give({**item, "filename": name, "bytes": len(data)}, data)
            self._sent.add((str(node["node_id"]), name))

    def _place(self, job: Job, told: Mapping[str, Any]) -> Path | None:
        """Find a file of the job's own folder; what is elsewhere comes with the answer."""
        folders = self._site.folders
        if not folders.shared or told.get("type") not in (None, "output"):
            return None
        own = (folders.output / JOBS_FOLDER / job.uid).resolve()
        path = (own / str(told.get("subfolder") or "") / str(told["filename"])).resolve()
        return path if path.is_relative_to(own) else None

    def _late(self, answer: Answer) -> list[dict[str, Any]]:
        """Give what no node's end gave, and the answer. Blocking."""
        items = [self._output(one) for one in answer.outputs if not self._was_sent(one)]
        outputs = [one.public() for one in answer.outputs]
        last = {"type": "result", **answer.head, "outputs": outputs, **answer.tail}
        if len(orjson.dumps(last, option=orjson.OPT_NON_STR_KEYS)) > CHUNK_BYTES:
            last = {"type": "result", "id": answer.job_id, "stats": answer.tail.get("stats")}
        clean: dict[str, Any] = orjson.loads(orjson.dumps(last, option=orjson.OPT_NON_STR_KEYS))
        return [*items, {key if key != "error" else "error_": v for key, v in clean.items()}]

    def _was_sent(self, output: Output) -> bool:
        return output.text is None and (output.node_id, output.filename) in self._sent

    def _output(self, output: Output) -> dict[str, Any]:
        item: dict[str, Any] = {"type": "output", **output.public()}
        if output.text is not None and len(output.text) * 4 > CHUNK_BYTES:
            item |= {"text": output.text[: CHUNK_BYTES // 8], "cut": True}
        if output.path is None or output.url is not None:
            return item
        if not self._fits(output.bytes):
            return {**item, "omitted": _TOO_LARGE}
        self._left -= base64_length(output.bytes)
        return {**item, "data": base64.b64encode(output.path.read_bytes()).decode()}

    def _fits(self, size: int) -> bool:
        length = base64_length(size) + _HEAD_BYTES
        return length <= CHUNK_BYTES and length <= self._left

    def _give(self, item: dict[str, Any], data: bytes) -> None:
        self._left -= base64_length(len(data)) + _HEAD_BYTES
        self._items.put_nowait({**item, "data": base64.b64encode(data).decode()})


def _as_they_are(given: Given) -> bool:
    """Tell whether outputs are given as nodes write them: neither converted, packed nor stored."""
    keys = ("convert_output", "archive", *TARGET_KINDS)
    return all(given.call.payload.get(key) is None for key in keys)
