"""The functions that RunPod's SDK is given, in its own loop, and what runs beside the jobs."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from adapters.runpod_stream import JobStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from adapters.runpod_ending import Ending
    from adapters.runpod_loop import HandlerLoop
    from adapters.runpod_work import Work
    from handler.engine.boot import Site

log = logging.getLogger("comfyfn.runpod")
_LOOK_S = 1.0
_LOOKS = 15


def handler_of(
    home: HandlerLoop, work: Work, ending: Ending, config: dict[str, Any]
) -> Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]:
    """Make the handler whose result is posted whole.

    Args:
        config: the SDK's; `refresh_worker` has this worker end after each job.
    """
    from runpod.serverless import progress_update

    # The SDK looks what kind of function it is given: no partial, no object.
    async def handle(job: dict[str, Any]) -> dict[str, Any]:
        ending.watch(asyncio.current_task())
        told = await home.call(work.run(job, partial(progress_update, job)))
        if "refresh_worker" in told:
            ending.begin(1)
        elif config["refresh_worker"]:
            ending.begin()
        return told

    return handle


def stream_of(
    home: HandlerLoop, work: Work, site: Site, ending: Ending, config: dict[str, Any]
) -> Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]:
    """Make the handler that yields; its arguments are as those of `handler_of`."""
    from runpod.serverless import progress_update

    async def handle(job: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        task = asyncio.current_task()
        ending.watch(task)

        async def begun() -> JobStream:
            return JobStream(work, site, job, partial(progress_update, job))

        stream = await home.call(begun())
        if task is not None:  # stopped while an item is posted, the SDK closes nothing
            task.add_done_callback(lambda _: home.submit(stream.close()))
        while (item := await home.call(stream.next())) is not None:
            if item.pop("refresh_worker", False):
                config["refresh_worker"] = True  # what a stream yields cannot ask for it
                ending.begin(1)
            yield item
        if config["refresh_worker"]:
            ending.begin()

    return handle


async def end_when_unhealthy(work: Work, ending: Ending) -> None:
    """End the worker as soon as its engine is given up: no job is taken to be failed."""
    while not work.unhealthy():  # noqa: ASYNC110 - nobody is told of that
        await asyncio.sleep(_LOOK_S)
    log.error("the engine is given up: this worker ends")
    ending.begin_from_afar(1)


async def tell_models(work: Work) -> None:
    """Log where models lie and how many of which, as NETWORK_VOLUME_DEBUG asks for."""
    for _ in range(_LOOKS):
        report = work.handler.health().boot.get("models")
        if report is not None:
            break
        await asyncio.sleep(_LOOK_S)  # it is looked at behind the boot
    else:
        return
    for root in report["roots"]:
        counts = ", ".join(f"{name} {n}" for name, n in root.get("models", {}).items())
        log.info("volume: %s: %s", root["path"], root.get("problem") or counts or "no models")
    for path in report["not_searched"]:
        log.info("volume: %s is not searched", path)
