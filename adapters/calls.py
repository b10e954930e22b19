"""The forms that a call of a platform may have, and the answer in the caller's form. Pure.

Ours (`{"prompt": graph, ...}`) and a call of an endpoint (`{"workflow": name, "input": {...}}`) go
to the handler as they are. worker-comfyui's (`{"workflow": graph, "images": [...]}`) is made into
ours, and answered as worker-comfyui does, with what it drops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from handler.errors import InvalidPayload

_KEY = "api_key_comfy_org"
_KEYS = ("comfy_org_api_key", _KEY)
_THEIRS = frozenset({"workflow", "images", *_KEYS})
# The lists of an answer by the kind of output; worker-comfyui has the first alone.
_LISTS = {
    "image": "images",
    "video": "videos",
    "audio": "audio",
    "model3d": "models3d",
    "file": "files",
}
# A file name there is where outputs go, and none of a file to load.
_NO_FILE = frozenset({"filename_prefix"})
MOST_AGAIN = 64 << 20
"""Bytes of images beyond their first use: a small call would become a job of any size."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the handler takes it.

    Attributes:
        payload: what `Handler.enter` takes.
        worker_comfyui: it came in worker-comfyui's form, and is answered in it.
    """

    payload: dict[str, Any]
    worker_comfyui: bool = False

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Give an answer in the caller's form."""
        return _their_answer(answer) if self.worker_comfyui else answer

    def failure(self, envelope: dict[str, Any]) -> dict[str, Any]:
        """Give the envelope of an error in the caller's form."""
        if not self.worker_comfyui:
            return envelope
        return {**envelope, "details": _lines(envelope), "faults": envelope.get("details")}


def read_call(given: Any, *, comfy_org_key: str = "") -> Call:
    """Read a call in any of its forms, or a JSON text of it.

    Args:
        comfy_org_key: the operator's, for the calls that bring none.

    Raises:
        InvalidPayload: it is none; in worker-comfyui's words where it is one of its own.
    """
    if given is None or given == "":
        raise InvalidPayload("Please provide input", location="input")
    if isinstance(given, str | bytes):
        given = _decoded(given)
    if not isinstance(given, dict):
        return Call(given)  # the handler tells what it is
    if "prompt" in given:
        return Call(_with_key(given, comfy_org_key))
    workflow = given.get("workflow")
    if isinstance(workflow, str) and workflow.lstrip()[:1] != "{":
        return Call(_with_key(given, comfy_org_key))
    if workflow is None:
        if not given or _THEIRS & given.keys():
            raise InvalidPayload(
                "Missing 'workflow' parameter",
                location="workflow",
                hint='send {"prompt": <graph>}, {"workflow": <graph>} or {"workflow": <name>}',
            )
        return Call(given)
    return Call(_ours(given, workflow, comfy_org_key), worker_comfyui=True)


def _decoded(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise InvalidPayload(
            "Invalid JSON format in input", location="input", details=str(fault)
        ) from fault


def _with_key(payload: dict[str, Any], key: str) -> dict[str, Any]:
    """Add the operator's key for partner nodes, unless the call has one."""
    extra = payload.get("extra_data")
    if not key or not (extra is None or isinstance(extra, dict)) or (extra and extra.get(_KEY)):
        return payload
    return {**payload, "extra_data": {**(extra or {}), _KEY: key}}


def _ours(given: dict[str, Any], workflow: Any, operators_key: str) -> dict[str, Any]:
    graph = _decoded(workflow) if isinstance(workflow, str) else workflow
    images = _images(given.get("images"))
    rest = {name: value for name, value in given.items() if name not in _THEIRS}
    key = next((given[name] for name in _KEYS if given.get(name)), None)
    if key is not None:
        extra = rest.get("extra_data")
        rest["extra_data"] = {**(extra if isinstance(extra, dict) else {}), _KEY: key}
    return _with_key({"prompt": _placed(graph, images), **rest}, operators_key)


def _images(given: Any) -> dict[str, str]:
    """Give the images by name, each as a value that an input takes.

    Raises:
        InvalidPayload: as worker-comfyui has it.
    """
    if given is None:
        return {}
    told = "'images' must be a list of objects with 'name' and 'image' keys"
    if not isinstance(given, list):
        raise InvalidPayload(told, location="images")
    found: dict[str, str] = {}
    for index, one in enumerate(given):
        name, image = (one.get("name"), one.get("image")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(image, str) or not name or not image:
            raise InvalidPayload(told, location=f"images.{index}")
        found[name] = _value(image)
    return found


def _value(image: str) -> str:
    """Give an image as an input takes it; what is no URI is base64, however short it is."""
    head = image[:4096]
    if head[:5].lower() == "data:" or "://" in head[:12]:
        return image
    return f"data:application/octet-stream;base64,{image}"


def _placed(graph: Any, images: dict[str, str]) -> Any:
    """Put images where a graph names them: no request sees the files of another."""
    if not images or not isinstance(graph, dict):
        return graph
    uses: Counter[str] = Counter()
    placed = {node_id: _with_images(node, images, uses) for node_id, node in graph.items()}
    again = sum((count - 1) * len(images[name]) for name, count in uses.items())
    if again > MOST_AGAIN:
        raise InvalidPayload(
            f"images: nodes name the same ones again and again, {again >> 20} MiB in all",
            location="images",
            hint="load an image in one node, and link the others to it",
        )
    return placed


def _with_images(node: Any, images: dict[str, str], uses: Counter[str]) -> Any:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    if not isinstance(inputs, dict):
        return node
    placed = {
        name: images[found]
        for name, value in inputs.items()
        if isinstance(value, str)
        and name not in _NO_FILE
        and (found := value.removesuffix(" [input]")) in images
    }
    uses.update(inputs[name].removesuffix(" [input]") for name in placed)
    return {**node, "inputs": {**inputs, **placed}} if placed else node


def _their_answer(answer: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"images": []}
    files = iter(answer["images"])
    for output in answer["outputs"]:
        if output["text"] is not None:
            told.setdefault("texts", []).append(output["text"])
            continue
        data = next(files)
        entry = {
            "filename": output["filename"],
            "type": "s3_url" if output.get("url") else "base64",
            "data": data,
        }
        told.setdefault(_LISTS.get(output["kind"], "files"), []).append(entry)
    if len(told) == 1 and not told["images"]:
        told = {"status": "success_no_images", **told}
    return told


def _lines(envelope: dict[str, Any]) -> list[str]:
    """Give what went wrong as texts, as worker-comfyui tells it."""
    details = envelope.get("details")
    lines = (
        [str(one["message"]) for one in details if isinstance(one, dict) and one.get("message")]
        if isinstance(details, list)
        else []
    )
    lines = lines or [str(envelope["error"])]
    return [*lines, str(envelope["hint"])] if envelope.get("hint") else lines
