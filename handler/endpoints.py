"""Calls of an endpoint by its name, `{"workflow": "txt2img", "input": {...}}`, become graphs.

An endpoint is a graph in API format, `<WORKFLOW_DIR>/<name>.json`. Its parameters are the nodes
whose title begins with `$`: the one free input of a node titled `$prompt` is `prompt`, and of a
node with several each is `prompt_<input>`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import orjson

from handler.errors import InternalFault, InvalidPayload, NotFound
from handler.graph.links import node_title
from handler.graph.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)
_LONGEST = 200


class UnknownWorkflow(NotFound):
    """There is no endpoint of that name."""

    code = "unknown_workflow"


def calls_endpoint(payload: Any) -> bool:
    """Tell whether a payload names an endpoint in place of a graph."""
    return (
        isinstance(payload, dict)
        and "prompt" not in payload
        and isinstance(payload.get("workflow"), str)
    )


class Endpoints:
    """The endpoints of a folder; it is read at every call, so what changes there counts at once.

    Args:
        folder: WORKFLOW_DIR; None where there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Endpoints {self._folder}>"

    async def resolve(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Give the payload with a graph in place of the endpoint's name.

        Raises:
            UnknownWorkflow: there is no endpoint of that name; the nearest ones are in the hint.
            InvalidPayload: of `input`.
        """
        rest = {key: value for key, value in payload.items() if key not in ("workflow", "input")}
        graph = await asyncio.to_thread(self._graph, payload["workflow"])
        given = payload.get("input")
        if given is not None and not isinstance(given, dict):
            raise InvalidPayload("input: an object of parameters", location="input")
        places = dict(_parameters(graph))
        for name, value in (given or {}).items():
            if name not in places:
                raise _unknown_parameter(name, list(places))
            node_id, key = places[name]
            graph[node_id]["inputs"][key] = value
        return {**rest, "prompt": graph}

    def _graph(self, name: str) -> dict[str, Any]:
        path = None
        if self._folder is not None and len(name) <= _LONGEST and _NAME.fullmatch(name):
            path = self._folder / f"{name}.json"
        if path is None or not path.is_file():
            raise self._unknown(name)
        try:
            graph: Any = orjson.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InternalFault(
                f"the endpoint {name} cannot be read", hint="the worker's image is at fault"
            ) from error
        return graph if isinstance(graph, dict) else {}

    def _unknown(self, name: str) -> UnknownWorkflow:
        near = nearest(name[:_LONGEST], self.names(), limit=3)
        hint = f"did you mean {', '.join(near)}?" if near else "WORKFLOW_DIR holds the endpoints"
        return UnknownWorkflow(
            f"there is no endpoint {name[:_LONGEST]!r}", location="workflow", hint=hint
        )

    def names(self) -> list[str]:
        """List the endpoints by their paths below the folder."""
        folder = self._folder
        if folder is None or not folder.is_dir():
            return []
        found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.json"))
        return sorted(str(path) for path in found)


def _parameters(graph: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Give each parameter's name with the node and the input that it sets."""
    for node_id, node in graph.items():
        title = node_title(graph, node_id)
        if not title.startswith("$") or not isinstance(node.get("inputs"), dict):
            continue
        free = [key for key, value in node["inputs"].items() if not isinstance(value, list)]
        name = title[1:].strip()
        for key in free:
            yield (name if len(free) == 1 else f"{name}_{key}"), (node_id, key)


def _unknown_parameter(name: str, known: list[str]) -> InvalidPayload:
    near = nearest(name[:_LONGEST], known, limit=1)
    hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
    location = f"input.{name[:_LONGEST]}"
    return InvalidPayload(f"{location}: there is no such parameter", location=location, hint=hint)
