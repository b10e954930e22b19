"""A job through the handler, to what is posted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from worker import GRAPH, until, worker

from adapters.runpod_work import Work
from handler.engine.events import Failed, Started
from handler.engine.memory import save_pictures
from handler.errors import BootFailed, ExecutionFailed
from handler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from handler.engine.base import EnginePrompt
    from handler.engine.events import EngineEvent
    from handler.engine.files import EngineFiles
    from handler.engine.memory import MemoryEngine


def silent(_report: dict[str, Any]) -> None:
    """Post nothing."""


async def stuck(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
    """Never end."""
    yield Started(1_000)
    await asyncio.Event().wait()


async def slow(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
    """Take a while, and save."""
    yield Started(1_000)
    await asyncio.sleep(0.5)
    async for event in save_pictures(prompt, files):
        yield event


async def raising(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
    """End as a node does that raises, for good."""
    yield Started(1_000)
    yield Failed("1", "SaveImage", "ValueError", "no")


@contextlib.asynccontextmanager
async def working(
    home: Path, ending: list[bool] | None = None
) -> AsyncIterator[tuple[Work, MemoryEngine]]:
    """Give the work of a worker that boots with its first job."""
    ending = [] if ending is None else ending
    async with worker(home, start=False) as (handler, memory):
        work = Work(handler, Settings(), lambda: bool(ending))
        try:
            yield work, memory
        finally:
            await work.close(0)


def job(job_id: str = "j-1", **given: Any) -> dict[str, Any]:
    return {"id": job_id, "input": given or {"prompt": GRAPH}}


async def test_the_first_job_waits_for_the_boot(tmp_path: Path) -> None:
    """Which is made once, whoever asks for it."""
    async with working(tmp_path) as (work, _):
        told = await asyncio.gather(work.boot(), work.run(job(), silent))

        assert told[1]["id"] == "j-1"
        assert len(told[1]["images"]) == 1
        assert not work.unhealthy()
        assert "Handler" in repr(work)


async def test_the_same_job_again_is_one_with_the_first(tmp_path: Path) -> None:
    """It is answered, and not run."""
    async with working(tmp_path) as (work, memory):
        first = await work.run(job(), silent)
        second = await work.run(job(), silent)

        assert second["images"] == first["images"]
        assert len(memory.prompts) == 1


async def test_a_failed_job_that_comes_again_is_run_again(tmp_path: Path) -> None:
    """Somebody asked for it by /retry, whatever went wrong; so is one that was stopped."""
    async with working(tmp_path) as (work, memory):
        memory.script = raising
        assert (await work.run(job(), silent))["code"] == "execution_error"
        memory.script = stuck
        run = asyncio.create_task(work.run(job(), silent))
        await until(lambda: work.handler.find("j-1").phase.value == "running")  # type: ignore[union-attr]
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        memory.script = save_pictures

        assert len((await work.run(job(), silent))["images"]) == 1


async def test_whatever_is_wrong_is_told_in_the_callers_shape(tmp_path: Path) -> None:
    """JSON, and no traceback."""
    nope = {"1": {"class_type": "Nope", "inputs": {}}}
    async with working(tmp_path) as (work, _):
        ours = await work.run(job("a", prompt=nope), silent)
        theirs = await work.run(job("b", workflow=nope), silent)
        none = await work.run({"id": "c", "input": None}, silent)

    assert (ours["code"], ours["statusCode"]) == ("invalid_workflow", 400)
    assert isinstance(theirs["details"][0], str)
    assert none["error"] == "Please provide input"
    json.dumps([ours, theirs, none])


async def test_a_fault_of_ours_is_told_without_its_words(tmp_path: Path) -> None:
    """A post that cannot be made must not hang the job either."""
    async with working(tmp_path) as (work, _):
        told = work.failed(ZeroDivisionError("secret"))

    assert told["code"] == "internal_error"
    assert "secret" not in json.dumps(told)


async def test_a_broken_gpu_asks_for_another_worker(tmp_path: Path) -> None:
    """Whatever else the job's failure is."""
    async with working(tmp_path) as (work, _):
        await work.boot()
        told = work.failed(ExecutionFailed("x", details={"cause": "gpu_fault"}))
        plain = work.failed(ExecutionFailed("x"))

    assert told["refresh_worker"] is True
    assert "refresh_worker" not in plain


async def test_a_worker_that_did_not_boot_asks_for_another(tmp_path: Path) -> None:
    """In local modes, where no check was made before."""
    async with working(tmp_path) as (work, memory):
        memory.boot_error = BootFailed("no")
        told = await work.run(job(), silent)

    assert told["code"] == "boot_failed"
    assert told["refresh_worker"] is True


async def test_the_platforms_stop_ends_exactly_that_run(tmp_path: Path) -> None:
    """In the engine, too: the job has a key, and would go on otherwise."""
    async with working(tmp_path) as (work, memory):
        memory.script = stuck
        await work.boot()
        runs = [asyncio.create_task(work.run(job(name), silent)) for name in ("a", "b")]
        await until(lambda: all(work.handler.find(name) is not None for name in ("a", "b")))
        runs[0].cancel()
        await asyncio.gather(runs[0], return_exceptions=True)
        await until(lambda: work.handler.find("a").phase.final)  # type: ignore[union-attr]

        assert work.handler.find("a").phase.value == "cancelled"  # type: ignore[union-attr]
        assert not work.handler.find("b").phase.final  # type: ignore[union-attr]
        runs[1].cancel()
        await asyncio.gather(runs[1], return_exceptions=True)


async def test_a_run_that_others_wait_for_is_not_stopped(tmp_path: Path) -> None:
    """Two jobs with one id of the caller's are one run: the other's caller is answered."""
    async with working(tmp_path) as (work, memory):
        memory.script = slow
        await work.boot()
        given = {"prompt": GRAPH, "id": "same"}
        first = asyncio.create_task(work.run({"id": "a", "input": given}, silent))
        await until(lambda: work.handler.find("same") is not None)
        second = asyncio.create_task(work.run({"id": "b", "input": given}, silent))
        await until(lambda: work.handler.find("same").joined)  # type: ignore[union-attr]
        first.cancel()

        assert len((await second)["images"]) == 1


async def test_on_the_way_down_no_run_is_cancelled_by_wish(tmp_path: Path) -> None:
    """Who is handed the job again must not find that somebody stopped it."""
    ending: list[bool] = []
    async with working(tmp_path, ending) as (work, memory):
        memory.script = stuck
        await work.boot()
        run = asyncio.create_task(work.run(job("a"), silent))
        await until(lambda: work.handler.find("a") is not None)
        ending.append(True)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert not work.handler.find("a").phase.final  # type: ignore[union-attr]
        await work.close(0)

        assert work.handler.find("a").error.code == "draining"  # type: ignore[union-attr]


async def test_a_frozen_worker_is_revived_before_its_next_job(tmp_path: Path) -> None:
    """The clocks drifted apart."""
    async with working(tmp_path) as (work, memory):
        await work.run(job("a"), silent)
        work._clocks._apart -= 60
        await work.run(job("b"), silent)
        await work.run(job("c"), silent)

        assert memory.freezes == ["revived"]
