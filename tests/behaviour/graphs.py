"""Graphs for the promises: each gives a picture of one colour and size, so that results tell."""

from __future__ import annotations

import itertools
from typing import Any

Graph = dict[str, Any]
# No two graphs of a test run alike: a cached result would hide what the engine does.
_colors = itertools.count(0x204060, 0x010307)
BLUR_PIXELS = 512
BLUR_S = 0.5  # one blur of that size, on two cores


def fresh_color() -> int:
    """Give a colour that no graph had before."""
    return next(_colors) % 0xFFFFFF


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Write a node."""
    return {"class_type": class_type, "inputs": inputs}


def save(link: str, prefix: str = "out") -> dict[str, Any]:
    """Write a SaveImage."""
    return node("SaveImage", images=[link, 0], filename_prefix=prefix)


def empty(width: int, height: int, color: int) -> dict[str, Any]:
    """Write an EmptyImage."""
    return node("EmptyImage", width=width, height=height, batch_size=1, color=color)


def picture(width: int = 16, height: int = 16, color: int | None = None) -> Graph:
    """Give a graph that is done at once."""
    color = fresh_color() if color is None else color
    return {"1": empty(width, height, color), "9": save("1")}


def slow(
    engine: str, seconds: float, width: int = 16, height: int = 16, color: int | None = None
) -> Graph:
    """Give a graph that runs for some seconds, heeds interrupts, and ends as `picture` does."""
    color = fresh_color() if color is None else color
    if engine == "embedded":
        sleep = node("TestSleep", image=["1", 0], seconds=seconds, steps=max(4, int(seconds * 20)))
        return {"1": empty(width, height, color), "2": sleep, "9": save("2")}
    graph: Graph = {"1": empty(BLUR_PIXELS, BLUR_PIXELS, color)}
    last = "1"
    for index in range(max(2, round(seconds / BLUR_S))):
        name = f"b{index}"
        graph[name] = node("ImageBlur", image=[last, 0], blur_radius=31, sigma=10.0)
        last = name
    graph["crop"] = node("ImageCrop", image=[last, 0], width=width, height=height, x=64, y=64)
    graph["9"] = save("crop")
    return graph


def silent(seconds: float, color: int | None = None) -> Graph:
    """Give a graph whose node neither tells steps nor heeds interrupts; embedded engine only."""
    sleep = node("TestSleep", image=["1", 0], seconds=seconds, steps=0)
    return {
        "1": empty(16, 16, fresh_color() if color is None else color),
        "2": sleep,
        "9": save("2"),
    }


def fault(class_type: str, **inputs: Any) -> Graph:
    """Give a graph with one of the embedded engine's fault nodes in its middle."""
    return {
        "1": empty(16, 16, fresh_color()),
        "2": node(class_type, image=["1", 0], **inputs),
        "9": save("2"),
    }


def load(url: str) -> Graph:
    """Give a graph that loads a picture from a URL."""
    return {"1": node("LoadImage", image=url), "9": save("1")}
