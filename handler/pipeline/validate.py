"""Received -> Validated: everything wrong with a graph is told before the engine sees it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from handler.errors import HandlerError, InvalidWorkflow, NoOutputNode, WorkflowFormatUi
from handler.graph.check import check_graph, has_output_node
from handler.graph.media_inputs import media_inputs
from handler.graph.ui_format import describe_bad_graph, is_ui_format
from handler.pipeline.stages import Parts, Received, Validated

if TYPE_CHECKING:
    from handler.engine.base import Engine
    from handler.graph.check import GraphFault
    from handler.graph.media_inputs import MediaInput
    from handler.graph.object_info import ObjectInfo
    from handler.records import Graph

# The text that comfyui-api's clients match.
NO_OUTPUT = 'Prompt must contain a node with a "filename_prefix" input, such as "SaveImage"'
MOST_NODES = 10_000
MOST_FAULTS = 50
# Every event and every output names its node.
LONGEST_ID = 1000
# Each class read anew is a request to the engine; a graph with more is wrong in another way.
MOST_REFRESHED = 8
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
    faults, media = await _look(graph, info)
    elsewhere = {item.location for item in media}
    stale = {f.class_type for f in faults if f.type in MAY_BE_STALE and f.location not in elsewhere}
    if 0 < len(stale) <= MOST_REFRESHED:
        await _refresh(parts.engine, stale)
        faults, media = await _look(graph, info)
        elsewhere = {item.location for item in media}
    faults = [f for f in faults if not (f.type in MAY_BE_STALE and f.location in elsewhere)]
    if faults:
        raise refused(faults if parts.engine.kind != "embedded" else _of_embedded(faults))
    if not has_output_node(graph, info):
        raise NoOutputNode(
            NO_OUTPUT, location="prompt", hint="add a node that saves or previews the result"
        )
    return Validated(received.request, graph, media)


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


async def _look(graph: Graph, info: ObjectInfo) -> tuple[list[GraphFault], list[MediaInput]]:
    """Find faults and media; a large graph in a thread, so that others are served meanwhile."""

    def look() -> tuple[list[GraphFault], list[MediaInput]]:
        return check_graph(graph, info), media_inputs(graph, info)

    return await asyncio.to_thread(look) if len(graph) > LARGE_GRAPH else look()


async def _refresh(engine: Engine, classes: set[str | None]) -> None:
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
