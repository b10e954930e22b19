"""The gates around an engine's boot, on an engine in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from worker import GRAPH, parts_in, until

from handler.errors import BootFailed, InputFailed
from handler.health import Health
from handler.manifest.schema import parse_manifest
from handler.manifest.start import ManifestStart
from handler.service import Handler
from handler.settings import Settings
from handler.startup import Startup

MODELS = """
models:
  before_start:
    - {url: https://e.org/a.bin, folder: vae}
  after_start:
    - {url: https://e.org/b.bin, folder: vae}
"""
WARM = Settings(warmup_json=json.dumps(GRAPH))


class Hands:
    """Does every step when `on` is set; a step may have a fault."""

    def __init__(self, **faults):
        self.on = asyncio.Event()
        self.faults = faults
        self.done = []

    async def __call__(self, task):
        await self.on.wait()
        self.done.append(task.name)
        if task.kind in self.faults:
            raise self.faults[task.kind]
        return ""


@contextlib.asynccontextmanager
async def worker_with(home, text, settings=None, *, findings=None, **faults):
    """Give a handler that has a manifest, its engine, and the hands that carry it out."""
    hands = Hands(**faults)
    parts = parts_in(home, settings)
    parts.engine.findings = findings or {}
    handler = Handler(parts, ManifestStart(parse_manifest(text), hands))
    try:
        yield handler, parts.engine, hands
    finally:
        await handler.stop()


async def test_without_a_manifest_there_is_the_warmup_alone(tmp_path):
    """And the report is the engine's."""
    parts = parts_in(tmp_path, WARM)
    startup = Startup(parts)
    startup.begin()
    await startup.may_launch()
    await startup.warm_up()
    assert len(parts.engine.prompts) == 1
    assert startup.reason() is None
    assert startup.report() == parts.engine.boot_report
    await startup.give_up()
    await startup.stop()


async def test_the_warmup_waits_for_the_models(tmp_path, caplog):
    """Meanwhile health tells for what; afterwards, when it was."""
    caplog.set_level("INFO")
    async with worker_with(tmp_path, MODELS, WARM) as (handler, engine, hands):
        starting = asyncio.create_task(handler.start())
        await until(lambda: handler.health().reason != "the engine boots")
        health = handler.health()
        assert health.health is Health.STARTING
        assert health.reason == "installing: model a.bin (0 s)"
        assert engine.prompts == []
        hands.on.set()
        await starting
        told = handler.health().boot["manifest"]
        assert len(engine.prompts) == 1
    names = [step["name"] for step in told["steps"]]
    assert names[:2] == ["engine boot", "model a.bin"]
    assert "warmup" in names
    assert any("engine boot" in line and "|" in line for line in caplog.messages)


async def test_the_manifest_is_carried_out_once(tmp_path):
    """An engine that is restarted is warmed up again, and nothing is installed."""
    async with worker_with(tmp_path, MODELS, WARM) as (handler, engine, hands):
        hands.on.set()
        await handler.start()
        await until(lambda: len(hands.done) == 2)
        before = handler.health().boot["manifest"]["steps"]
        await engine.restart("a test")
        assert len(engine.prompts) == 2
        assert handler.health().boot["manifest"]["steps"] == before
        assert len(hands.done) == 2


@pytest.mark.parametrize(
    ("text", "kind", "prompts"), [("pip: [x]", "pip", 0), (MODELS, "model", 0)]
)
async def test_a_step_that_fails_makes_the_worker_unhealthy(tmp_path, text, kind, prompts):
    """A warmup that may fail does not excuse it."""
    settings = Settings(warmup_json=WARM.warmup_json, warmup_failure="continue")
    fault = {kind: InputFailed("it is gone")}
    async with worker_with(tmp_path, text, settings, **fault) as (handler, engine, hands):
        hands.on.set()
        with pytest.raises(BootFailed, match="it is gone"):
            await handler.start()
        assert handler.health().health is Health.UNHEALTHY
        assert "it is gone" in handler.health().reason
        assert len(engine.prompts) == prompts


async def test_a_worker_given_up_stops_what_is_under_way(tmp_path):
    """Nothing goes on in a worker that will be replaced."""
    async with worker_with(tmp_path, MODELS) as (handler, engine, _):
        engine.boot_error = BootFailed("no GPU")
        with pytest.raises(BootFailed):
            await handler.start()
        told = handler.health().boot["manifest"]
    assert {model["state"] for model in told["models"]} <= {"cancelled", "waiting"}


async def test_a_pack_that_does_not_load_stops_the_worker(tmp_path):
    """By its name; an optional one is a warning."""
    failed = {"name": "p", "error": "ImportError: x", "hint": None, "traceback": []}
    findings = {"custom_nodes_failed": [failed]}
    text = "custom_nodes: [{name: p}]"
    async with worker_with(tmp_path, text, findings=findings) as (handler, _, hands):
        hands.on.set()
        with pytest.raises(BootFailed, match="node pack p does not load: ImportError"):
            await handler.start()

    text = "custom_nodes: [{name: p, optional: true}]"
    async with worker_with(tmp_path, text, findings=findings) as (handler, _, hands):
        hands.on.set()
        await handler.start()
        warnings = handler.health().boot["manifest"]["warnings"]
    assert warnings == ["node pack p does not load: ImportError: x"]


async def test_a_machine_that_is_too_small_is_a_warning(tmp_path, caplog):
    """Nothing is enforced."""
    text = "requires: {vram_gb: 24}"
    async with worker_with(tmp_path, text, findings={"vram_mb": 8192}) as (handler, _, _):
        await handler.start()
        (warning,) = handler.health().boot["manifest"]["warnings"]
    assert warning.startswith("24 GB of VRAM are wanted")
    assert warning in caplog.text


async def test_a_folder_that_is_not_searched_is_a_warning(tmp_path):
    """The file would be there, and never seen."""
    text = "catalogue: {tiny: {url: https://e.org/x.bin, folder: chekpoints}}"
    async with worker_with(tmp_path, text) as (handler, _, _):
        await handler.start()
        (warning,) = handler.health().boot["manifest"]["warnings"]
    assert "tiny is for the folder chekpoints, which the engine does not search" in warning


async def test_a_name_to_preload_that_is_nowhere_is_a_warning(tmp_path):
    """Known when the models are there."""
    async with worker_with(tmp_path, "preload: [typo.safetensors]") as (handler, _, _):
        await handler.start()
        warnings = handler.health().boot["manifest"]["warnings"]
    assert warnings == ["preload: typo.safetensors is in no folder of models"]


async def test_a_broken_pack_and_a_model_that_failed_are_told_together(tmp_path):
    """Nobody mends the one to learn of the other."""
    failed = {"name": "p", "error": "ImportError: x", "hint": None, "traceback": []}
    text = f"custom_nodes: [{{name: p}}]{MODELS}"
    fault = InputFailed("no such file")
    async with worker_with(
        tmp_path, text, findings={"custom_nodes_failed": [failed]}, model=fault
    ) as (handler, _, hands):
        hands.on.set()
        with pytest.raises(BootFailed):
            await handler.start()
        reason = handler.health().reason
    assert "node pack p does not load: ImportError" in reason
    assert "no such file" in reason


async def test_waiting_for_models_is_no_warming_up(tmp_path):
    """The engine counts both as one."""
    findings = {"phases": {"warmup_s": 9.0}}
    async with worker_with(tmp_path, MODELS, findings=findings) as (handler, _, hands):
        starting = asyncio.create_task(handler.start())
        await asyncio.sleep(0.05)
        hands.on.set()
        await starting
        phases = handler.health().boot["phases"]
    assert phases["models_s"] >= 0.04
    assert phases["warmup_s"] == pytest.approx(9.0 - phases["models_s"], abs=0.002)


async def test_a_warmup_may_be_left_for_later(tmp_path):
    """A manifest is carried out all the same."""
    async with worker_with(tmp_path, MODELS, WARM) as (handler, engine, hands):
        hands.on.set()
        handler._startup.hold_warmup()
        await handler.start()
        assert engine.prompts == []
        await handler._startup.release_warmup()
        assert len(engine.prompts) == 1
        handler._startup.note("snapshot", {"mode": "cpu"})
        assert handler._startup.report()["snapshot"] == {"mode": "cpu"}
