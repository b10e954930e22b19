"""What runs beside the jobs; the SDK's handlers are proven in tests/platforms."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from worker import worker

from adapters.runpod_ending import Ending
from adapters.runpod_handlers import end_when_unhealthy, tell_models
from adapters.runpod_work import Work
from handler.engine.base import EngineState
from handler.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_an_engine_that_is_given_up_ends_the_worker(tmp_path: Path) -> None:
    """Without a job that fails first."""
    ending = Ending(lambda: 0, 1)
    async with worker(tmp_path) as (handler, memory):
        work = Work(handler, Settings())
        watching = asyncio.create_task(end_when_unhealthy(work, ending))
        await asyncio.sleep(0)
        assert not watching.done()
        memory.enter(EngineState.FAILED, "gone")
        await asyncio.wait_for(watching, 5)
        await work.close(0)


async def test_where_models_lie_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As NETWORK_VOLUME_DEBUG asks for."""
    roots: list[dict[str, Any]] = [
        {"path": "/volume", "models": {"loras": 2, "vae": 1}},
        {"path": "/dead", "problem": "it is not there"},
    ]
    async with worker(tmp_path) as (handler, memory):
        memory.findings = {"models": {"roots": roots, "not_searched": ["/volume/x.safetensors"]}}
        work = Work(handler, Settings())
        with caplog.at_level(logging.INFO, "comfyfn.runpod"):
            await tell_models(work)
        await work.close(0)

    assert "/volume: loras 2, vae 1" in caplog.text
    assert "/dead: it is not there" in caplog.text
    assert "/volume/x.safetensors is not searched" in caplog.text


def test_the_sdk_sees_what_kind_of_functions_it_is_given() -> None:
    """It looks at the function itself: in a process of its own, as its import reads settings."""
    import subprocess
    import sys

    from live import REPO

    program = (
        "import inspect\n"
        "from adapters.runpod_handlers import handler_of, stream_of\n"
        "one, many = handler_of(0, 0, 0, {}), stream_of(0, 0, 0, 0, {})\n"
        "print(inspect.iscoroutinefunction(one), inspect.isasyncgenfunction(many))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["True", "True"]
    assert inspect.iscoroutinefunction(tell_models)
