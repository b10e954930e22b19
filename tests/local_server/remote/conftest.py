"""What tests of remotes share: a real server, somebody who listens, and jobs that take a while."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from live import LiveServer, live_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.job import JobEvent

EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}

_COLORS = itertools.count(1)


@dataclass
class Heard:
    """A teller that remembers."""

    said: list[str] = field(default_factory=list)
    shown: list[JobEvent] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, told: JobEvent, /) -> None:
        self.shown.append(told)

    @property
    def kinds(self) -> set[str]:
        return {event.type for event in self.shown}


@pytest.fixture
def heard() -> Heard:
    """Give somebody who listens."""
    return Heard()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give a real server with an embedded engine."""
    with live_server(tmp_path_factory.mktemp("remote")) as running:
        yield running


def saved(source: str, prefix: str = "x") -> dict[str, Any]:
    """Give a node that saves the pictures of another."""
    inputs = {"images": [source, 0], "filename_prefix": prefix}
    return {"class_type": "SaveImage", "inputs": inputs, "_meta": {"title": "the picture"}}


@pytest.fixture
def plain() -> dict[str, Any]:
    """Give a graph of one small picture."""
    return {"1": EMPTY, "2": saved("1")}


@pytest.fixture
def noisy() -> dict[str, Any]:
    """Give a graph of one picture of some hundred kilobytes."""
    size = {"width": 400, "height": 400, "batch_size": 1, "color": 0x808080}
    inputs = {"image": ["1", 0], "seed": 7, "strength": 1.0}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "ImageAddNoise", "inputs": inputs},
        "3": saved("2"),
    }


@pytest.fixture
def slow() -> dict[str, Any]:
    """Give a graph that takes a minute."""
    return sleeping(60)


def sleeping(seconds: float) -> dict[str, Any]:
    """Give a graph that takes a while, and tells its progress."""
    inputs = {"image": ["1", 0], "seconds": seconds, "steps": max(1, int(seconds * 20))}
    # Each is another picture: the engine knows what it has made before.
    size = {**EMPTY["inputs"], "color": next(_COLORS)}
    empty = {**EMPTY, "inputs": size}
    return {"1": empty, "2": {"class_type": "TestSleep", "inputs": inputs}, "3": saved("2")}


@pytest.fixture
def brief() -> dict[str, Any]:
    """Give a graph that takes a moment, step by step."""
    return sleeping(0.6)
