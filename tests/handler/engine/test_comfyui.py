"""The engine's life: boot, restart, give up, attach; with the embedded engine as a real child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace

import pytest
from aiohttp import web
from live import alive, quoted
from lone import lone_engine, prompt, site_in, switch
from worker import until

from handler.engine import comfyui
from handler.engine.base import EngineState, NeverStarted
from handler.engine.boot import launch
from handler.engine.comfyui import ComfyEngine
from handler.engine.events import Started, Succeeded
from handler.engine.snapshot import SnapshotNode
from handler.errors import (
    BootFailed,
    EngineDied,
    EngineRefused,
    HandlerError,
    NotReady,
    Stalled,
)

SLOW = ("TestSleep", {"seconds": 60.0, "steps": 600})
FAILS = "sh -c 'echo no luck; exit 7'"


def folders(home):
    return {name: str(home / name) for name in ("INPUT_DIR", "OUTPUT_DIR", "MODEL_DIR")}


async def test_it_boots_runs_and_stops(tmp_path):
    """After a stop nothing is left: no process, no scratch."""
    async with lone_engine(tmp_path) as (engine, states):
        assert states == ["warmup", "ready"]
        assert (engine.kind, engine.state, engine.reason) == ("embedded", EngineState.READY, None)
        assert engine.version
        assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)
        assert "checkpoints" in await engine.models()
        assert (await engine.object_info()).node("SaveImage").output_node
        await engine.refresh_class("SaveImage")
        await engine.refresh_class("NoSuchClass")
        pid = engine._process.pid
        assert repr(engine) == "<ComfyEngine embedded ready runs=0>"

    assert states[-1] == "stopped"
    assert not alive(pid)
    assert not list((tmp_path / "work").iterdir())
    with pytest.raises(NotReady):
        await engine.run(prompt("b"), [].append)


async def test_who_listens_gets_the_engines_own_messages(tmp_path):
    """Of the whole run, in its order, `executing` with no node last."""
    heard = []
    async with lone_engine(tmp_path, start=False) as (engine, _):
        engine.listen(heard.append)
        await engine.start()
        await engine.run(prompt("a"), [].append)
        await until(lambda: heard[-1]["data"].get("node", "") is None)

    own = [message for message in heard if message["data"].get("prompt_id") == "a"]
    kinds = [message["type"] for message in own if message["type"] != "progress_state"]
    assert kinds[:2] == ["execution_start", "execution_cached"]
    assert kinds[-3:] == ["executed", "execution_success", "executing"]
    (saved,) = [message["data"] for message in own if message["type"] == "executed"]
    assert saved["output"]["images"][0]["subfolder"] == "a"
    assert heard[0]["data"]["sid"]


async def test_its_memory_is_told_and_a_cpu_is_no_device(tmp_path):
    """After its end, too: then of the most that it took."""
    async with lone_engine(tmp_path) as (engine, _):
        usage = await engine.usage()
        assert engine.device is None
        assert usage.rss is not None
        assert usage.rss > 1 << 20
        assert usage.vram_used is None

    after = await engine.usage()
    assert (after.rss, after.rss_peak is not None) == (None, True)


async def test_the_boot_report_tells_phases_and_findings(tmp_path):
    """Seconds of each part; all parts are within the total."""
    async with lone_engine(tmp_path) as (engine, _):
        report = engine.boot_report

    phases = report["phases"]
    parts = ("engine_answering_s", "node_info_s", "warmup_s")
    assert 0 < sum(phases[name] for name in parts) <= phases["total_s"] + 0.01
    assert report["custom_nodes_failed"] == []
    assert isinstance(report["devices"], list)


async def test_what_was_read_ahead_is_told_in_the_boot_report(tmp_path):
    """Asked for at any time before it is ready."""
    async with lone_engine(tmp_path, start=False) as (engine, _):
        engine.read_ahead(["no.ckpt"])
        assert engine._site.reader.wait(20)
        await engine.start()

        assert engine.boot_report["read_ahead"] == {"roots": {}, "not_found": ["no.ckpt"]}


async def test_what_lies_in_the_roots_is_told_after_the_boot(tmp_path):
    """A moment later: no start waits for it."""
    vae = tmp_path / "models" / "vae" / "a.safetensors"
    vae.parent.mkdir(parents=True)
    vae.touch()
    async with lone_engine(tmp_path) as (engine, _):
        await until(lambda: "models" in engine.boot_report)
        told = engine.boot_report["models"]

    assert {"path": str(tmp_path / "models"), "models": {"vae": 1}} in told["roots"]
    assert told["not_searched"] == []


async def test_a_process_that_was_launched_before_is_taken(tmp_path):
    """It boots while the server's imports run."""
    site = site_in(tmp_path)
    process = launch(site)
    engine = ComfyEngine(site, process)
    await engine.start()

    assert engine._process is process
    assert engine.log_tail()
    await engine.stop()
    assert not process.alive


async def test_before_the_boot_nothing_is_known(tmp_path):
    """Whoever asks too early is told so."""
    async with lone_engine(tmp_path, start=False) as (engine, _):
        assert (engine.state, engine.version) == (EngineState.STARTING, None)
        assert engine.log_tail() is None
        with pytest.raises(NotReady):
            await engine.object_info()


async def test_an_engine_that_ends_is_started_again_and_warmed_up(tmp_path):
    """The run that it had dies with the exit told; the next one works."""
    async with lone_engine(tmp_path) as (engine, states):
        with pytest.raises(EngineDied, match="exited with code 3") as caught:
            await engine.run(prompt("a", ("TestExit", {"code": 3})), [].append)
        assert not isinstance(caught.value, NeverStarted)
        assert caught.value.log_tail
        assert engine.state is EngineState.RESTARTING
        await until(lambda: engine.state is EngineState.READY)
        assert isinstance(await engine.run(prompt("b"), [].append), Succeeded)

    assert states == ["warmup", "ready", "restarting", "warmup", "ready", "stopped"]


async def test_a_prompt_that_waits_when_the_engine_ends_never_started(tmp_path):
    """It may be handed in again."""
    async with lone_engine(tmp_path) as (engine, _):
        slow, begun = ("TestSleep", {"seconds": 60.0, "steps": 600}), []
        first = asyncio.create_task(engine.run(prompt("a", slow), begun.append))
        await until(lambda: any(isinstance(event, Started) for event in begun))
        second = asyncio.create_task(engine.run(prompt("b", slow), [].append))
        await until(lambda: len(engine._runs) == 2)
        await engine.restart("a test")

        with pytest.raises(EngineDied):
            await first
        with pytest.raises(NeverStarted):
            await second


async def test_an_engine_that_cannot_boot_is_tried_again_within_its_budget(tmp_path):
    """Then it is given up, with its own words."""
    async with lone_engine(
        tmp_path, start=False, ENGINE="comfyui", CMD=FAILS, ENGINE_RESTARTS="1"
    ) as (engine, states):
        with pytest.raises(BootFailed, match="exited with code 7 in its boot") as caught:
            await engine.start()

        assert caught.value.log_tail == ["no luck"]
        assert states == ["failed"]
        assert engine.boot_report["error"]["code"] == "boot_failed"
        assert "code 7" in engine.reason
        with pytest.raises(NotReady):
            await engine.run(prompt("a"), [].append)


async def test_an_engine_that_ends_again_and_again_is_given_up(tmp_path):
    """ENGINE_RESTARTS counts ends without a success between them."""
    async with lone_engine(tmp_path, ENGINE_RESTARTS="0") as (engine, states):
        with pytest.raises(EngineDied):
            await engine.run(prompt("a", ("TestExit", {"code": 3})), [].append)
        await until(lambda: engine.state is EngineState.FAILED)

    assert "given up" in engine.reason
    assert states == ["warmup", "ready", "restarting", "failed"]


async def test_restarts_that_we_order_are_no_failures_of_the_engine(tmp_path):
    """However many stubborn runs come in a row: the worker stays."""
    async with lone_engine(tmp_path, ENGINE_RESTARTS="0") as (engine, states):
        for _ in range(2):
            events = []
            run = asyncio.create_task(engine.run(prompt("a", SLOW), events.append))
            await until(lambda seen=events: seen)
            await engine.restart("a run does not stop")
            with pytest.raises(EngineDied, match="was killed by us: a run does not stop"):
                await run
            assert "killed by us" in engine.reason
            await engine.restart("again")  # it is on its way already
            await until(lambda: engine.state is EngineState.READY)
        assert isinstance(await engine.run(prompt("b"), [].append), Succeeded)
    assert "failed" not in states


async def test_a_warmup_that_stalls_counts_as_a_failed_boot(tmp_path):
    """Else an engine that is killed for it would be booted for ever."""
    site = site_in(tmp_path, ENGINE_RESTARTS="0", CANCEL_GRACE_S="1")
    engine, states = ComfyEngine(site), []

    async def warm_up():
        deaf = ("TestSleep", {"seconds": 60.0, "steps": 0})
        with contextlib.suppress(Stalled):  # as WARMUP_FAILURE=continue has it
            await engine.run(prompt("w", deaf, no_progress_s=0.2), [].append)

    engine.prepare(lambda state: states.append(state.value), warm_up)
    with pytest.raises(BootFailed, match="was killed by us: a run stalled"):
        await engine.start()
    await engine.stop()
    assert states == ["failed"]


async def test_a_fault_of_ours_in_the_boot_is_told_and_nothing_hangs(tmp_path, caplog):
    """A full disk, for example: the worker is unhealthy, and its stop leaves nothing."""
    site = site_in(tmp_path)
    engine, states = ComfyEngine(site), []

    async def warm_up():
        raise OSError(28, "No space left on device")

    engine.prepare(lambda state: states.append(state.value), warm_up)
    with pytest.raises(BootFailed, match=r"OSError.*No space left on device") as caught:
        await engine.start()
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, OSError)
    assert (engine.state, states) == (EngineState.FAILED, ["failed"])
    assert engine.boot_report["error"]["code"] == "boot_failed"
    assert "a fault in the engine's life" in caplog.text
    await engine.stop()
    assert not site.scratch.exists()


async def test_a_stop_goes_on_whatever_the_engines_life_ended_with(tmp_path):
    """The process and the scratch folder go in any case."""
    site = site_in(tmp_path)
    engine = ComfyEngine(site)
    await engine.start()
    process = engine._process

    async def broken():
        raise OSError("broken")

    engine._lifecycle.cancel()
    engine._lifecycle = asyncio.create_task(broken())
    await asyncio.wait({engine._lifecycle})
    await engine.stop()
    assert not process.alive
    assert not site.scratch.exists()


async def test_a_restart_before_the_launch_is_no_attached_engines(tmp_path, caplog):
    """There is no process yet, and one comes."""
    async with lone_engine(tmp_path, start=False) as (engine, _):
        caplog.set_level("INFO")
        await engine.restart("a test")
    assert "attached" not in caplog.text
    assert "is being restarted already: a test" in caplog.text


async def test_only_the_first_boot_counts_our_own_start(tmp_path):
    """Afterwards the server's age is no part of it."""
    async with lone_engine(tmp_path) as (engine, _):
        first = engine.boot_report["phases"]
        assert first["process_s"] > 0
        await engine.restart("a test")
        await until(lambda: engine.state is EngineState.RESTARTING)
        await until(lambda: engine.state is EngineState.READY)
        again = engine.boot_report["phases"]
    assert again["process_s"] == 0
    parts = sum(again[name] for name in ("engine_answering_s", "node_info_s", "warmup_s"))
    assert abs(again["total_s"] - parts) < 0.01


def test_an_engine_that_boots_is_asked_often_and_then_less():
    """A cold start is felt; ten minutes of boot are not helped by fifty questions a second."""
    assert [comfyui.boot_poll_s(waited) for waited in (0, 9.9, 10.3, 15, 20, 600)] == [
        *(0.02, 0.02, 0.02),
        *(0.25, 0.5, 0.5),
    ]


async def test_a_success_gives_the_budget_back(tmp_path):
    """Only failures in a row count."""
    async with lone_engine(tmp_path, ENGINE_RESTARTS="1") as (engine, _):
        for name in "ab":
            with pytest.raises(EngineDied):
                await engine.run(prompt(name, ("TestExit", {"code": 3})), [].append)
            await until(lambda: engine.state is EngineState.READY)
            assert isinstance(await engine.run(prompt(f"{name}2"), [].append), Succeeded)


async def test_an_engine_that_does_not_answer_in_time_is_given_up(tmp_path):
    """Its process is ended."""
    async with lone_engine(
        tmp_path,
        start=False,
        ENGINE="comfyui",
        CMD="sleep 60",
        BOOT_TIMEOUT_S="1",
        ENGINE_RESTARTS="0",
    ) as (engine, _):
        with pytest.raises(BootFailed, match="did not answer within 1 s"):
            await engine.start()
        assert engine._process is None


async def test_a_fault_of_this_machine_is_not_tried_again(tmp_path):
    """A taken port stays taken."""
    async with lone_engine(tmp_path) as (first, _):
        port = str(first._settings.comfy_port)
        async with lone_engine(tmp_path / "2", start=False, COMFYUI_PORT_HOST=port) as (engine, _):
            with pytest.raises(BootFailed, match="already taken"):
                await engine.start()
            assert engine.state is EngineState.FAILED
        assert first.state is EngineState.READY


async def test_a_warmup_that_fails_for_good_fails_the_boot(tmp_path):
    """What it raised is the reason."""
    engine = ComfyEngine(site_in(tmp_path))

    async def warm_up():
        raise BootFailed("the warmup failed: no such node", blame="image")

    engine.prepare(lambda _state: None, warm_up)
    with pytest.raises(BootFailed, match="no such node"):
        await engine.start()
    assert engine.state is EngineState.FAILED
    await engine.stop()


async def test_an_engine_that_ends_in_its_warmup_is_told(tmp_path):
    """Nobody waits for a warmup whose engine is gone."""
    engine = ComfyEngine(site_in(tmp_path, ENGINE_RESTARTS="0"))

    async def warm_up():
        engine._process.kill()
        await asyncio.Event().wait()

    engine.prepare(lambda _state: None, warm_up)
    with pytest.raises(BootFailed, match="was killed by SIGKILL"):
        await engine.start()
    await engine.stop()


async def test_a_stop_during_the_boot_leaves_nothing(tmp_path):
    """The process that was being waited for is ended."""
    async with lone_engine(tmp_path, start=False, ENGINE="comfyui", CMD="sleep 60") as (
        engine,
        states,
    ):
        starting = asyncio.create_task(engine.start())
        await until(lambda: engine._process is not None)
        pid = engine._process.pid
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting

    assert not alive(pid)
    assert states == ["stopped"]


async def test_an_engine_without_a_socket_boots_and_runs(tmp_path, caplog):
    """History tells the end, later."""
    async with lone_engine(tmp_path) as (engine, _):
        await switch(engine, "refuse_ws", refuse=True)
        await switch(engine, "drop_sockets")
        await until(lambda: not engine._runs.socket.connected)
        assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)


async def test_an_attached_engine_is_used_and_left_alone(tmp_path):
    """It is not started, not ended, and cannot be restarted from here."""
    async with lone_engine(tmp_path) as (owner, _):
        url = f"http://127.0.0.1:{owner._settings.comfy_port}"
        async with lone_engine(tmp_path / "2", ENGINE="auto", COMFY_URL=url) as (engine, states):
            assert (engine.kind, engine.log_tail()) == ("attached", None)
            assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)
            await engine.restart("it is stuck")
            assert engine.state is EngineState.READY
        assert states == ["warmup", "ready", "stopped"]
        assert isinstance(await owner.run(prompt("b"), [].append), Succeeded)


async def test_an_attached_engine_that_goes_away_is_waited_for(tmp_path):
    """It is not ours to start; when it is back, work goes on."""
    async with lone_engine(tmp_path) as (owner, _):
        url = f"http://127.0.0.1:{owner._settings.comfy_port}"
        async with lone_engine(tmp_path / "2", ENGINE="auto", COMFY_URL=url) as (engine, states):
            await owner.restart("a test")
            await until(lambda: engine.state is not EngineState.READY)
            await until(lambda: engine.state is EngineState.READY)
            assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)
        assert states[1:4] == ["ready", "restarting", "warmup"]


def test_a_closed_loop_is_nobody_to_tell():
    """The process may end after the server's loop."""
    loop = asyncio.new_event_loop()
    event = asyncio.Event()
    loop.close()
    comfyui._tell(loop, event)

    assert not event.is_set()


async def test_every_error_of_a_start_is_ours(tmp_path):
    """What the adapters handle is one tree."""
    program = [sys.executable, "-c", "import http.server as h; h.test(port=%d, bind='127.0.0.1')"]
    site = site_in(tmp_path)
    program[2] %= site.settings.comfy_port
    port = str(site.settings.comfy_port)
    async with lone_engine(
        tmp_path,
        start=False,
        ENGINE="comfyui",
        CMD=quoted(program),
        COMFYUI_PORT_HOST=port,
        BOOT_TIMEOUT_S="1",
        ENGINE_RESTARTS="0",
    ) as (engine, _):
        with pytest.raises(HandlerError):
            await engine.start()


async def test_the_engines_own_registry_of_model_folders_is_read(tmp_path):
    """With what extra files and node packs add to it; new files go to MODEL_DIR."""
    extra = tmp_path / "extra.yaml"
    extra.write_text(f"volume: {{is_default: true, loras: {tmp_path}/volume/loras}}")
    args = f"--extra-model-paths-config {extra}"
    async with lone_engine(tmp_path, start=False, COMFY_ARGS=args) as (engine, _):
        with pytest.raises(NotReady):
            await engine.model_folders()
        await engine.start()
        folders = await engine.model_folders()

    assert folders.paths["loras"][0] == tmp_path / "volume" / "loras"
    assert tmp_path / "models" / "loras" in folders.paths["loras"]
    assert folders.writable("loras") == tmp_path / "models" / "loras"
    assert "test_models" in folders.names
    assert "custom_nodes" not in folders.names


@pytest.mark.parametrize("status", [404, 500])
async def test_an_engine_that_tells_no_registry_tells_names(tmp_path, status):
    """One without the route, or one whose route a node pack broke; here, or elsewhere."""

    async def answer(request):
        told = {"/system_stats": {}, "/object_info": {}, "/models": ["loras", "mine"]}
        known = told.get(request.path)
        return web.Response(status=status) if known is None else web.json_response(known)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    site = site_in(tmp_path, ENGINE="comfyui", COMFY_URL=url)
    engine = ComfyEngine(site)
    try:
        away = await engine._registry()
        engine._site.folders = replace(site.folders, models=tmp_path, shared=True)
        here = await engine._registry()
    finally:
        await engine.stop()
        await runner.cleanup()

    assert away.paths == {"loras": (), "mine": ()}
    assert here.paths == {"loras": (tmp_path / "loras",), "mine": (tmp_path / "mine",)}


async def test_an_engine_is_connected_to_anew(tmp_path):
    """After a pause there is no connection; a revival opens one, in no time."""
    async with lone_engine(tmp_path) as (engine, states):
        await engine.pause()
        assert not engine._runs.socket.connected
        await engine.revive()
        generation = engine._runs.socket.generation
        assert engine._runs.socket.connected
        await engine.revive()
        assert engine._runs.socket.generation == generation + 1
        assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)
    assert states == ["warmup", "ready", "stopped"]


async def test_a_run_in_hand_goes_on_through_a_revival(tmp_path):
    """Its connection is replaced under it."""
    async with lone_engine(tmp_path) as (engine, _):
        running = asyncio.create_task(
            engine.run(prompt("a", ("TestSleep", {"seconds": 1.0, "steps": 10})), [].append)
        )
        await until(lambda: len(engine._runs) == 1)
        await engine.revive()
        assert isinstance(await running, Succeeded)
        await until(lambda: engine._runs.socket.connected)


async def test_an_engine_that_hangs_after_a_freeze_is_started_again(tmp_path):
    """Whoever revives it waits until it is ready."""
    async with lone_engine(tmp_path) as (engine, states):
        pid = engine._process.pid
        os.kill(pid, signal.SIGSTOP)
        await engine.revive()
        assert engine.state is EngineState.READY
        assert engine._process.pid != pid
        assert isinstance(await engine.run(prompt("a"), [].append), Succeeded)
    assert states == ["warmup", "ready", "restarting", "warmup", "ready", "stopped"]


async def test_an_engine_that_was_not_put_to_sleep_is_not_woken(tmp_path):
    """Nothing is asked of it."""
    async with lone_engine(tmp_path) as (engine, _):
        assert await engine.wake() == {}
        engine._site.node = SnapshotNode(hides_gpu=True)
        with pytest.raises(EngineRefused):
            await engine.wake()  # the embedded engine has no nodes of others
