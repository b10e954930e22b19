"""What is asked and how: graphs for the stand-in engine, and each server's JSON around them."""

from __future__ import annotations

import base64
import contextlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def noise_graph(pixels: int) -> Graph:
    """One square noise PNG; the seed makes every graph a new one."""
    noise = node("BenchNoise", width=pixels, height=pixels, seed=random.getrandbits(40))
    return {"1": noise, "9": node("SaveImage", images=["1", 0], filename_prefix="bench")}


def file_graph(size_mb: int) -> Graph:
    """One output file of that many MiB."""
    return {"9": node("BenchFile", size_mb=size_mb, filename_prefix="bench")}


def input_graph(image: str) -> Graph:
    """One input image, of which a small output is made."""
    return {
        "1": node("LoadImage", image=image),
        "2": node("BenchShrink", images=["1", 0]),
        "9": node("SaveImage", images=["2", 0], filename_prefix="bench"),
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status.
        body: as received; for `direct` the base64 text of the one output.
        seconds: from the first byte sent to the last byte read.
    """

    status: int
    body: bytes
    seconds: float

    def json(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            found = json.loads(self.body)
            return found if isinstance(found, dict) else {}
        return {}


def _comfyui_api_body(graph: Graph) -> dict[str, Any]:
    return {"prompt": graph}


def _comfyui_api_input(image: bytes) -> dict[str, Any]:
    return {"prompt": input_graph(base64.b64encode(image).decode())}


def _runpod_body(graph: Graph) -> dict[str, Any]:
    return {"input": {"workflow": graph}}


def _runpod_input(image: bytes) -> dict[str, Any]:
    sent = {"name": "bench-input.png", "image": base64.b64encode(image).decode()}
    return {"input": {"workflow": input_graph("bench-input.png"), "images": [sent]}}


def _runpod_outputs(answer: Answer) -> list[str]:
    output = answer.json().get("output")
    images = output.get("images", []) if isinstance(output, dict) else []
    return [image["data"] for image in images]


@dataclass(frozen=True, slots=True)
class Shape:
    """How one server is asked: where to, with which body, and where its base64 outputs stand."""

    path: str
    body: Callable[[Graph], dict[str, Any]]
    input_body: Callable[[bytes], dict[str, Any]]
    outputs: Callable[[Answer], list[str]]


SHAPES = {
    "comfyui-api": Shape(
        "/prompt",
        _comfyui_api_body,
        _comfyui_api_input,
        lambda answer: answer.json().get("images") or [],
    ),
    "runpod": Shape("/runsync", _runpod_body, _runpod_input, _runpod_outputs),
}


def outputs(shape: str, answer: Answer) -> list[str]:
    """The base64 outputs of an answer; none for a failure."""
    if answer.status != 200:
        return []
    return [answer.body.decode()] if shape == "direct" else SHAPES[shape].outputs(answer)


def fault(shape: str, answer: Answer) -> str | None:
    """A short name of what is wrong with an answer, None when it holds an output."""
    if outputs(shape, answer):
        return None
    return f"HTTP {answer.status}" if answer.status != 200 else "no output"
