"""Calls nodes without an engine around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from local_server.engine.folders import Folders
from local_server.engine.nodes import catalog
from local_server.engine.progress import Interruption, Progress, Reporter
from local_server.engine.schema import Call
from local_server.engine.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NODES = catalog(test_faults=True)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))
    for folder in (made.input, made.output, made.temp):
        folder.mkdir()
    return made


@pytest.fixture
def run(folders: Folders) -> Callable[..., Any]:
    """Run a node by its name; `call_facts` change what it knows besides its inputs."""

    def run_one(name: str, call_facts: dict[str, Any] | None = None, /, **inputs: Any) -> Any:
        progress = Progress(Sockets(dict, {}), "prompt")
        facts: dict[str, Any] = {
            "folders": folders,
            "reporter": Reporter(progress, Interruption(), "1"),
            "node_id": "1",
            "prompt": {"1": {"class_type": name}},
            "extra_pnginfo": None,
            "metadata": True,
            "previews": False,
        }
        return NODES[name](Call(**(facts | (call_facts or {}))), inputs)

    return run_one
