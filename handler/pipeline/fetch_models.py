"""Validated -> Prepared: models are fetched beside the media, and named as the engine lists them.

The engine goes on meanwhile: a job takes its slot when everything is here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from handler.engine.base import EngineState
from handler.graph.check import check_graph
from handler.graph.links import unwrapped
from handler.pipeline.fetch_inputs import fetch_inputs
from handler.pipeline.stages import Parts, Prepared, Validated
from handler.pipeline.validate import refused

if TYPE_CHECKING:
    from handler.graph.model_inputs import ModelInput, Place
    from handler.job import Job
    from handler.records import Graph
    from handler.transfer.records import OnProgress, Progress

TELL_EVERY_S = 0.5
# A graph may name thousands; the server has other jobs, too.
RESOLVED_AT_ONCE = 16


async def prepare(
    validated: Validated, job: Job, parts: Parts, *, operator: bool = False
) -> Prepared:
    """Bring media and models at once.

    Args:
        operator: the graph is the operator's, whose URLs may lead anywhere.

    Raises:
        HandlerError: of the first that cannot be had; the others are stopped.
    """
    media = asyncio.create_task(fetch_inputs(validated, job, parts, operator=operator))
    models = asyncio.create_task(fetch_models(validated, job, parts, operator=operator))
    await _all_or_none([media, models])
    graph = with_names(media.result().graph, validated.models, models.result())
    prepared = Prepared(validated.request, graph, media.result().output_nodes)
    await _check_again(prepared, validated, parts)
    return prepared


async def fetch_models(
    validated: Validated, job: Job, parts: Parts, *, operator: bool = False
) -> list[str]:
    """Resolve every model input; give the names that the engine's lists have, in their order.

    Raises:
        HandlerError: a model cannot be had; names node and input.
    """
    gate = asyncio.Semaphore(RESOLVED_AT_ONCE)

    async def resolved(want: ModelInput) -> str:
        async with gate:
            return await parts.models.resolve(
                want,
                validated.request.credentials,
                job.uid,
                _teller(want, job),
                operator=operator,
            )

    tasks = [asyncio.create_task(resolved(want)) for want in validated.models]
    await _all_or_none(tasks)
    return [task.result() for task in tasks]


def with_names(graph: Graph, wants: list[ModelInput], names: list[str]) -> Graph:
    """Put the names of models into a graph; only what changes is copied."""
    changed = dict(graph)
    for want, name in zip(wants, names, strict=True):
        if name != want.value:
            node = changed[want.node_id]
            value = _replaced(node["inputs"][want.input], want.place, name)
            changed[want.node_id] = {**node, "inputs": {**node["inputs"], want.input: value}}
    return changed


def _replaced(value: Any, place: Place, name: str) -> Any:
    """Copy a value with another text at one place in it."""
    if unwrapped(value) is not value:
        return {**value, "__value__": _replaced(unwrapped(value), place, name)}
    if not place:
        return name
    copy = value.copy()
    copy[place[0]] = _replaced(value[place[0]], place[1:], name)
    return copy


async def _all_or_none(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for all; the first failure stops the others and is raised as it is."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _check_again(prepared: Prepared, validated: Validated, parts: Parts) -> None:
    """Hold the names against the lists as they are now.

    Raises:
        InvalidWorkflow: a node does not have its model's name among its choices.
    """
    fetched = {want.location for want in validated.models if not want.listed}
    # An engine that is down has other lists when it is back; it checks graphs itself then.
    if not fetched or parts.engine.state is EngineState.RESTARTING:
        return
    info = await parts.engine.object_info()
    faults = [f for f in check_graph(prepared.graph, info) if f.location in fetched]
    if faults:
        raise refused(faults)


def _teller(want: ModelInput, job: Job) -> OnProgress:
    """Give what tells a job's followers how far a download is."""
    told_at = 0.0

    def tell(news: Progress) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= TELL_EVERY_S or news.done == news.total:
            told_at = now
            data = {
                "node_id": want.node_id,
                "input": want.input,
                "done": news.done,
                "total": news.total,
                "bytes_per_s": round(news.bytes_per_s),
            }
            job.tell("download", data)

    return tell
