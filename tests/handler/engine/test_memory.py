"""The engine in memory keeps the port's promises."""

from __future__ import annotations

import asyncio

import pytest
from worker import GRAPH, until

from handler.engine.base import EnginePrompt, EngineState, NeverStarted
from handler.engine.events import Gone, Interrupted, NodeOutput, Started, Succeeded
from handler.engine.memory import PIXEL, MemoryEngine
from handler.errors import BootFailed, EngineDied, NotReady


async def waiting(prompt, files):
    yield Started(1)
    await asyncio.Event().wait()


async def silent(prompt, files):
    return
    yield


def prompt(name="p"):
    return EnginePrompt(name, GRAPH)


async def ready(home, **options):
    engine = MemoryEngine(home, **options)
    await engine.start()
    return engine


async def test_it_saves_a_picture_for_every_prefix(tmp_path):
    """Real files, announced as ComfyUI does."""
    engine, events = await ready(tmp_path), []
    end = await engine.run(prompt(), events.append)

    assert end == events[-1] == Succeeded(2_000)
    (output,) = [event for event in events if isinstance(event, NodeOutput)]
    path = await engine.files.open(output.output["images"][0], tmp_path)
    assert path.read_bytes() == PIXEL
    assert engine.prompts == [prompt()]


async def test_states_are_told_and_the_last_ones_are_final(tmp_path):
    """starting -> ready -> restarting -> ready -> stopped."""
    engine, states, warmed = MemoryEngine(tmp_path), [], []

    async def warm_up():
        warmed.append(engine.state)

    assert engine.state is EngineState.STARTING
    engine.prepare(states.append, warm_up)
    await engine.start()
    await engine.restart("why")
    await engine.stop()
    engine.enter(EngineState.READY, None)

    assert [s.value for s in states] == ["ready", "restarting", "ready", "stopped"]
    assert [s.value for s in warmed] == ["starting", "restarting"]
    assert engine.restarts == ["why"]
    with pytest.raises(NotReady, match="stopped"):
        await engine.run(prompt(), [].append)
    assert repr(engine) == "<MemoryEngine stopped runs=0>"


async def test_a_boot_that_fails_is_final(tmp_path):
    """As on a machine that cannot run it."""
    engine = MemoryEngine(tmp_path)
    engine.boot_error = BootFailed("no GPU")
    with pytest.raises(BootFailed):
        await engine.start()

    assert (engine.state, engine.reason) == (EngineState.FAILED, "no GPU")


async def test_a_cancel_interrupts_the_running_and_drops_the_waiting(tmp_path):
    """And hits no other."""
    engine, events = await ready(tmp_path, script=waiting), []
    running = asyncio.create_task(engine.run(prompt("r"), events.append))
    await until(lambda: events)
    queued = asyncio.create_task(engine.run(prompt("q"), events.append))
    other = asyncio.create_task(engine.run(prompt("o"), events.append))
    await until(lambda: len(engine.prompts) == 3)

    await engine.cancel("unknown")
    await engine.cancel("q")
    await engine.cancel("r")
    assert isinstance(await queued, Gone)
    assert isinstance(await running, Interrupted)
    assert not other.done()
    await engine.stop()
    with pytest.raises(EngineDied):
        await other


async def test_a_stubborn_run_needs_a_restart(tmp_path):
    """What runs dies; what waits has never started."""
    engine, events = await ready(tmp_path, script=waiting), []
    engine.stubborn = True
    running = asyncio.create_task(engine.run(prompt("r"), events.append))
    await until(lambda: events)
    queued = asyncio.create_task(engine.run(prompt("q"), events.append))
    await until(lambda: len(engine.prompts) == 2)

    await engine.cancel("r")
    assert not running.done()
    await engine.restart("stuck")
    with pytest.raises(EngineDied) as caught:
        await running
    assert not isinstance(caught.value, NeverStarted)
    with pytest.raises(NeverStarted):
        await queued


async def test_a_script_without_an_end_loses_the_prompt(tmp_path):
    """Every run has exactly one end."""
    engine, events = await ready(tmp_path, script=silent), []
    assert await engine.run(prompt(), events.append) == Gone()
    assert events == [Gone()]


async def test_classes_are_learnt_on_demand_only(tmp_path):
    """As an engine whose nodes were reloaded."""
    engine = await ready(tmp_path, nodes={})
    entry = {"input": {}, "output": [], "output_node": True, "python_module": "nodes"}
    engine.learn("New", entry)
    assert (await engine.object_info()).node("New") is None
    await engine.refresh_class("New")
    assert (await engine.object_info()).node("New").output_node
    await engine.refresh_class("Nowhere")

    assert await engine.models() == {"checkpoints": []}
    assert (engine.kind, engine.version, engine.boot_report) == ("memory", "0", {"phases": {}})


async def test_its_models_are_files_and_it_tells_none_while_it_restarts(tmp_path):
    """As a process that is down."""
    engine = MemoryEngine(tmp_path, model_folders=("loras",))
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "a.pt").touch()

    assert await engine.models() == {"loras": ["a.pt"]}
    assert (await engine.model_folders()).names == ("loras",)
    engine.enter(EngineState.RESTARTING, "a test")
    for ask in (engine.models_in, engine.refresh_class):
        with pytest.raises(EngineDied):
            await ask("loras")


async def test_what_is_to_be_read_ahead_is_noted(tmp_path):
    """It has no files to read."""
    engine = MemoryEngine(tmp_path)
    engine.read_ahead(["a.ckpt", "b.ckpt"])

    assert engine.read_names == ["a.ckpt", "b.ckpt"]


async def test_a_script_may_send_messages(tmp_path):
    """To whoever listens."""
    engine, heard = MemoryEngine(tmp_path), []
    engine.listen(heard.append)
    assert engine.tap is not None
    engine.tap({"type": "status", "data": {}})

    assert heard == [{"type": "status", "data": {}}]


async def test_freezes_are_noted(tmp_path):
    """It has no connections and no GPU."""
    engine = MemoryEngine(tmp_path)
    await engine.pause()
    await engine.revive()
    engine.woken = {"device": "cuda"}

    assert await engine.wake() == {"device": "cuda"}
    assert engine.freezes == ["paused", "revived", "woken"]
