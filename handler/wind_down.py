"""Ends runs that nobody waits for, and holds their slots until the engine is rid of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from handler.pipeline.run import JobFolder

if TYPE_CHECKING:
    from handler.engine.events import End
    from handler.job import Job
    from handler.pipeline.stages import Parts
    from handler.slots import Slots


class WindDowns:
    """The runs that are being ended."""

    def __init__(self, parts: Parts, slots: Slots[Job]) -> None:
        self._parts = parts
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<WindDowns {len(self._tasks)}>"

    def begin(self, run: asyncio.Task[End], prompt_id: str, job: Job) -> None:
        """End a run: by order, and where it does not heed that in time, with the whole engine."""
        task = asyncio.create_task(self._end(run, prompt_id, job), name=f"wind-down-{job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for none of them any longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end(self, run: asyncio.Task[End], prompt_id: str, job: Job) -> None:
        engine, grace_s = self._parts.engine, self._parts.settings.cancel_grace_s
        try:
            await engine.cancel(prompt_id)
            done, _ = await asyncio.wait({run}, timeout=grace_s)
            if not done:
                await engine.restart(f"job {job.id} was cancelled and does not stop")
                await asyncio.wait({run}, timeout=grace_s)
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            self._slots.release(job)
            await JobFolder(job, self._parts).remove()
