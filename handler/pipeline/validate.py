"""Received -> Validated: everything wrong with a graph is told before the engine sees it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from handler.errors import HandlerError, InvalidWorkflow, NoOutputNode, WorkflowFormatUi
from handler.graph.check import check_graph, has_output_node
from handler.graph.faults import quoted
from handler.graph.media_inputs import media_inputs
from handler.graph.model_inputs import folders_of, model_inputs, wishing_classes
from handler.graph.nearest import nearest
from handler.graph.ui_format import describe_bad_graph, is_ui_format
from handler.pipeline.stages import Parts, Received, Validated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from handler.engine.base import Engine
    from handler.graph.check import GraphFault
    from handler.graph.media_inputs import MediaInput
    from handler.graph.model_inputs import ModelInput
    from handler.graph.object_info import ObjectInfo
    from handler.records import Graph

T = TypeVar("T")

# The text that comfyui-api's clients match.
NO_OUTPUT = 'Prompt must contain a node with a "filename_prefix" input, such as "SaveImage"'
MOST_NODES = 10_000
MOST_FAULTS = 50
# Every event and every output names its node.
LONGEST_ID = 1000
# Each class read anew is a request to the engine; a graph with more is wrong in another way.
MOST_REFRESHED = 8
MOST_WISHING = 64
LARGE_GRAPH = 300
# What may have changed since the engine's nodes were read: a file was added, a node reloaded.
EMBEDDED_LACKS = "the embedded engine has core image nodes only; set COMFY_HOME to run this graph"
MAY_BE_STALE = frozenset({"value_not_in_list", "missing_node_type"})


async def validate(received: Received, parts: Parts) -> Validated:
    """Check the graph against what the engine knows of its nodes.

    Raises:
        WorkflowFormatUi: the graph is of "Save", not of "Export (API)".
        InvalidWorkflow: with every fault, its node, input and nearest names in `details`.
        NoOutputNode: nothing would come out.
    """
    graph = received.request.prompt
    _check_shape(graph)
    info = await parts.engine.object_info()
    seen = await _look(graph, info, parts)
    stale = {f.class_type for f in seen.faults if f.type in MAY_BE_STALE}
    if 0 < len(stale) <= MOST_REFRESHED:
        await _refresh(parts.engine, stale)
        seen = await _look(graph, info, parts)
    if seen.faults:
        faults = [_with_catalogue(fault, info, seen.listings, parts) for fault in seen.faults]
        raise refused(faults if parts.engine.kind != "embedded" else _of_embedded(faults))
    if not has_output_node(graph, info):
        raise NoOutputNode(
            NO_OUTPUT, location="prompt", hint="add a node that saves or previews the result"
        )
    return Validated(received.request, graph, seen.media, seen.models)


def _check_shape(graph: Graph) -> None:
    # parse_payload wraps what is no object, so that its fault is told here.
    value = graph[""] if set(graph) == {""} else graph
    if is_ui_format(value):
        raise WorkflowFormatUi(
            "the graph is in the format of ComfyUI's Save, which cannot be run",
            location="prompt",
            hint='in ComfyUI choose "Export (API)" (in older versions: enable dev mode first)',
        )
    bad = describe_bad_graph(value)
    if bad is not None:
        raise InvalidWorkflow(bad, location="prompt")
    if len(graph) > MOST_NODES:
        raise InvalidWorkflow(
            f"the graph has {len(graph)} nodes; at most {MOST_NODES} are taken", location="prompt"
        )
    if any(len(node_id) > LONGEST_ID for node_id in graph):
        raise InvalidWorkflow(
            f"a node's id has more than {LONGEST_ID} characters", location="prompt"
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a graph has: faults, and inputs that are looked after later and so are none."""

    faults: list[GraphFault]
    media: list[MediaInput]
    models: list[ModelInput]
    listings: Mapping[str, Collection[str]]


async def _look(graph: Graph, info: ObjectInfo, parts: Parts) -> _Seen:
    """Find faults, media and models; a large graph in a thread, so that others are served."""
    known = parts.models.known
    wishing = await _off_loop(graph, lambda: wishing_classes(graph, info, known))
    if 0 < len(wishing) <= MOST_WISHING:
        # Lists and choices are compared: both have to be of the same moment.
        await _refresh(parts.engine, wishing)
    listings = await parts.models.listings(fresh=bool(wishing))

    def look() -> _Seen:
        media = media_inputs(graph, info)
        taken = {item.location for item in media}
        models = [
            want
            for want in model_inputs(graph, info, listings, known)
            if want.location not in taken
        ]
        taken.update(want.location for want in models)
        faults = [
            fault
            for fault in check_graph(graph, info)
            if not (fault.type in MAY_BE_STALE and fault.location in taken)
        ]
        return _Seen(faults, media, models, listings)

    return await _off_loop(graph, look)


async def _off_loop(graph: Graph, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if len(graph) > LARGE_GRAPH else work()


def _with_catalogue(
    fault: GraphFault, info: ObjectInfo, listings: Mapping[str, Collection[str]], parts: Parts
) -> GraphFault:
    """Add what the catalogue has to the names that were perhaps meant."""
    spec = info.node(fault.class_type)
    declared = spec.inputs.get(fault.input or "") if spec else None
    if fault.type != "value_not_in_list" or spec is None or declared is None:
        return fault
    known = parts.models.known_in(folders_of(spec, declared, listings))
    near = nearest(str(fault.received), dict.fromkeys([*fault.choices_near, *known]))
    if near == fault.choices_near:
        return fault
    hint = f"did you mean {', '.join(quoted(name) for name in near)}?"
    return dataclasses.replace(fault, choices_near=near, hint=hint, blame="caller")


async def _refresh(engine: Engine, classes: Iterable[str | None]) -> None:
    with contextlib.suppress(HandlerError):  # what we have is then the best we know
        await asyncio.gather(*(engine.refresh_class(name) for name in classes if name))


def _of_embedded(faults: list[GraphFault]) -> list[GraphFault]:
    """Say of a class that is not there where it would be: no image lacks a node pack here."""
    return [
        dataclasses.replace(fault, hint=EMBEDDED_LACKS)
        if fault.type == "missing_node_type" and fault.blame == "image"
        else fault
        for fault in faults
    ]


def refused(faults: list[GraphFault]) -> InvalidWorkflow:
    """Make one error of all faults; it stands on the first."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidWorkflow(
        f"{first.message}{more}",
        location=first.location,
        node_id=first.node_id,
        node_title=first.title,
        class_type=first.class_type,
        hint=first.hint,
        blame=first.blame,
        details=[fault.public() for fault in faults[:MOST_FAULTS]],
    )
