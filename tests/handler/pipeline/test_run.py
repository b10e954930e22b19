"""The way of a payload through all stages."""

from __future__ import annotations

import asyncio

import pytest
from worker import GRAPH, parts_in, received

from conftest import TWO, executing, playing

from handler.engine.events import Failed
from handler.engine.memory import PIXEL, write_picture
from handler.errors import (
    ConversionFailed,
    EngineRefused,
    ExecutionFailed,
    ResultTooLarge,
    TimedOut,
    UploadFailed,
)
from handler.job import Phase
from handler.pipeline.run import run_pipeline
from handler.pipeline.stages import Ran
from handler.records import JOBS_FOLDER
from handler.settings import Settings


def runner(parts):
    """What the service does in between: run the graph."""

    async def execute(prepared):
        prefix = prepared.graph["2"]["inputs"]["filename_prefix"]
        told = {"images": [write_picture(parts.engine.files, prefix)]}
        return Ran(prepared.graph, prepared.output_nodes, told={"2": told})

    return execute


def never(_prepared):
    return asyncio.Event().wait()


def left(home):
    roots = (home / "input", home / "output", home / "temp", home / "scratch")
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


async def test_a_payload_passes_every_stage(tmp_path):
    """Phases in order; the answer's close removes all files, strays included."""
    parts, job = parts_in(tmp_path), received(convert_output={"format": "png"})
    stray, gone = tmp_path / "temp" / "p.png", tmp_path / "temp" / "gone.png"
    stray.touch()
    job.job.strays |= {stray, gone}
    answer = await run_pipeline(job, parts, runner(parts))

    assert job.job.phase is Phase.DELIVERING
    assert list(job.job.stage_s) == ["received", "fetching", "collecting", "converting"]
    assert (await answer.json())["filenames"] == ["job_x_00001_.png"]
    assert left(tmp_path)
    await answer.close()
    assert left(tmp_path) == []


async def test_without_conversion_there_is_no_such_phase(tmp_path):
    """Followers see only what happens."""
    parts, job = parts_in(tmp_path), received()
    await (await run_pipeline(job, parts, runner(parts))).close()
    assert "converting" not in job.job.stage_s


@pytest.mark.parametrize("own", [True, False])
async def test_the_total_time_is_a_limit(tmp_path, own):
    """The job's own, else the operator's; nothing is left behind."""
    parts = parts_in(tmp_path, Settings(job_timeout_s=0.0 if own else 0.05))
    keys = {"timeouts": {"total_s": 0.05}} if own else {}
    own = tmp_path / "output" / JOBS_FOLDER / "uid"
    own.mkdir(parents=True)
    (own / "half.png").touch()
    with pytest.raises(TimedOut, match=r"longer than its limit of 0\.05 s"):
        await run_pipeline(received(**keys), parts, never)
    assert left(tmp_path) == []


async def test_a_timeout_of_something_else_is_not_the_jobs(tmp_path):
    """It is told as what it is."""
    parts = parts_in(tmp_path)

    async def execute(prepared):
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        await run_pipeline(received(), parts, execute)


@pytest.mark.parametrize("error", [EngineRefused("x"), asyncio.CancelledError(), OSError("disk")])
async def test_whatever_fails_leaves_no_files(tmp_path, error):
    """Also a cancel; previews in the engine's temp folder go, too."""
    parts = parts_in(tmp_path)

    job, preview = received(GRAPH), tmp_path / "temp" / "p.png"

    async def execute(prepared):
        await runner(parts)(prepared)
        preview.touch()
        job.job.strays.add(preview)
        raise error

    with pytest.raises(type(error)):
        await run_pipeline(job, parts, execute)
    assert left(tmp_path) == []
    assert job.job.strays == set()
