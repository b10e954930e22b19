"""Graphs that take their time, or give much."""

from __future__ import annotations

from typing import Any

from contract.graphs import plain


def sleeping(seconds: float, steps: int = 0) -> dict[str, Any]:
    """Give a graph that takes its time between two nodes."""
    graph = plain()
    inputs = {"image": ["1", 0], "seconds": seconds, "steps": steps}
    graph["s"] = {"class_type": "TestSleep", "inputs": inputs}
    graph["2"]["inputs"]["images"] = ["s", 0]
    return graph


def file_of(size: int, name: str = "clip.mp4", key: str = "gifs") -> dict[str, Any]:
    """Give a graph that writes one file of so many bytes."""
    inputs = {"name": name, "size_bytes": size, "key": key}
    return {"1": {"class_type": "TestFile", "inputs": inputs}}
