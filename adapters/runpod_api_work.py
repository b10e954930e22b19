"""What runs a job of the request API: the RunPod worker's own work, in the local server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapters.runpod_stream import JobStream
from adapters.runpod_work import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters.runpod_api_records import QueuedJob
    from handler.engine.boot import Site
    from handler.service import Handler
    from handler.settings import Settings


class LocalWork(Work):
    """Runs jobs of the queue; make it in the handler's loop.

    Args:
        site: where the engine's files are.
        ending: whether the server is on its way down.
    """

    def __init__(
        self, handler: Handler, settings: Settings, site: Site, ending: Callable[[], bool]
    ) -> None:
        super().__init__(handler, settings, ending)
        self._site = site
        self._streams = settings.runpod_stream

    async def boot(self) -> None:
        """Leave that to the server."""

    def leave(self) -> None:
        """End what it has beside the jobs."""
        self._ticking.cancel()

    async def take(self, job: QueuedJob, given: dict[str, Any]) -> dict[str, Any]:
        """Give what the worker has posted of a job. Cancelling this stops the job.

        Args:
            given: the job as RunPod hands it out.
        """

        def told(report: dict[str, Any]) -> None:
            job.progress = report

        if not self._streams:
            return as_posted(await self.run(given, told))
        stream = JobStream(self, self._site, given, told)
        items: list[dict[str, Any]] = []
        try:
            while (item := await stream.next()) is not None:
                item.pop("refresh_worker", None)
                if item.get("error"):  # the SDK keeps nothing beside it
                    return {"error": item["error"]}
                items.append(item)
                job.chunks.append(item)
        finally:
            await stream.close()
        return {"output": items}


def as_posted(result: dict[str, Any]) -> dict[str, Any]:
    """Give what the SDK makes of a worker's return value: `error` beside the rest."""
    rest = {k: v for k, v in result.items() if k not in ("error", "refresh_worker")}
    told: dict[str, Any] = {"output": rest} if rest else {}
    return {**told, "error": result["error"]} if result.get("error") else told
