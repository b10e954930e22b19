"""What a real ComfyUI prints, said of the job that it works on."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from live import COMFY_HOME, COMFY_PYTHON
from lone import lone_engine, prompt

from handler.engine.base import GraphRefused
from handler.engine.events import Succeeded
from handler.log_context import JobMark, current_mark, job_context

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(200)]


class Seen(logging.Handler):
    """Keeps lines, and the job that each is said of."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        mark = current_mark()
        self.lines.append((mark.job_id if mark else None, record.levelname, record.getMessage()))


@pytest.fixture
def seen():
    handler, logger = Seen(), logging.getLogger("comfyfn.comfyui")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.skipif(not COMFY_HOME, reason="needs COMFY_HOME")
async def test_comfyuis_lines_name_the_job_that_ran(tmp_path, seen):
    """Its boot is of no job; how long a run took is of the job that it was."""
    python = {"COMFY_PYTHON": COMFY_PYTHON} if COMFY_PYTHON else {}
    env = {"ENGINE": "comfyui", "COMFY_HOME": COMFY_HOME, "ALLOW_CPU": "true", **python}
    async with lone_engine(tmp_path, **env) as (engine, _):
        booted = len(seen)
        assert booted
        for name in ("first", "second"):
            with job_context(JobMark(name)):
                assert isinstance(await engine.run(prompt(name), lambda _: None), Succeeded)
        async with asyncio.timeout(20):
            while not any("executed in" in line for job, _, line in seen if job == "second"):
                await asyncio.sleep(0.01)
        with contextlib.suppress(GraphRefused), job_context(JobMark("third")):
            await engine.run(prompt("third", ("NoSuchNode", {})), lambda _: None)
    assert {job for job, _, _ in seen[:booted]} == {None}
    executed = [(job, level) for job, level, line in seen if "executed in" in line]
    assert executed == [("first", "INFO"), ("second", "INFO")]
