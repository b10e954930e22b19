"""Progress as RunPod is told it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from adapters.runpod_progress import Progress
from handler.job import Job, Phase


class Platform:
    """Posts as the SDK does: in a thread each, whose name tells what it runs."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.go = threading.Event()
        self.go.set()

    def post(self, report: dict[str, Any]) -> None:
        def _thread_target() -> None:
            self.go.wait(10)
            self.reports.append(report)

        threading.Thread(target=_thread_target, daemon=True).start()


async def followed(progress: Progress, job: Job) -> asyncio.Task[None]:
    telling = asyncio.create_task(progress.follow(job))
    await asyncio.sleep(0.01)
    return telling


async def test_it_never_falls_and_the_newest_counts() -> None:
    """What came meanwhile is not told one by one."""
    platform, job = Platform(), Job(uid="u", id="i")
    progress = Progress(platform.post, every_s=0.05)
    telling = await followed(progress, job)
    job.enter(Phase.RUNNING)
    for percent in (10, 40, 30):
        job.tell("progress", {"overall_pct": percent, "eta_s": 1.0, "node_id": "3"})
    await asyncio.sleep(0.2)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await progress.settled()

    assert platform.reports == [{"status": "running", "percent": 40.0, "eta_s": 1.0, "node": "3"}]
    assert "40 %" in repr(progress)


async def test_phases_are_told_where_nothing_else_is() -> None:
    """A job that fetches its models has no progress yet."""
    platform, job = Platform(), Job(uid="u", id="i")
    telling = await followed(Progress(platform.post, every_s=0.05), job)
    job.enter(Phase.FETCHING)
    await asyncio.sleep(0.2)
    telling.cancel()

    assert platform.reports == [{"status": "fetching", "percent": 0.0}]


async def test_the_next_waits_for_the_one_before() -> None:
    """They cannot pass each other."""
    platform, job = Platform(), Job(uid="u", id="i")
    platform.go.clear()
    progress = Progress(platform.post, every_s=0.02)
    telling = await followed(progress, job)
    for percent in range(5):
        job.tell("progress", {"overall_pct": percent})
        await asyncio.sleep(0.05)
    telling.cancel()
    assert platform.reports == []
    settling = asyncio.create_task(progress.settled())
    await asyncio.sleep(0.05)
    assert not settling.done()
    platform.go.set()
    await settling

    assert len(platform.reports) == 1


async def test_the_end_is_no_progress() -> None:
    """The result tells it."""
    platform, job = Platform(), Job(uid="u", id="i")
    telling = await followed(Progress(platform.post, every_s=0.02), job)
    job.tell("download", {"node_id": "1", "input": "x"})
    job.succeed([])
    await telling

    assert platform.reports == []
