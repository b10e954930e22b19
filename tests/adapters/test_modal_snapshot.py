"""The stages around a memory snapshot: on the embedded engine, and on a real ComfyUI."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from live import COMFY_HOME, COMFY_PYTHON, alive, free_port
from modal._runtime.user_code_event_loop import UserCodeEventLoop

from adapters.modal_snapshot import Stages
from handler.engine.snapshot import SnapshotNode
from handler.errors import BootFailed
from handler.settings import Settings

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
# It would not even be looked at without a GPU.
NO_GPU = "no GPU is seen"


def settings_in(home, **env):
    return Settings.from_env(
        {
            "ENGINE": "embedded",
            "COMFYUI_PORT_HOST": str(free_port()),
            "INPUT_DIR": str(home / "input"),
            "OUTPUT_DIR": str(home / "output"),
            "WORK_DIR": str(home / "work"),
            "STATE_DIR": str(home / "state"),
            "MODEL_DIR": str(home / "models"),
            **env,
        }
    )


def comfyui_in(home, **env):
    python = {"COMFY_PYTHON": COMFY_PYTHON} if COMFY_PYTHON else {}
    env = {"ENGINE": "comfyui", "COMFY_HOME": COMFY_HOME, "ALLOW_CPU": "true", **python, **env}
    return settings_in(home, **env)


async def runs(handler):
    async with await handler.handle({"prompt": GRAPH}) as answer:
        return len((await answer.json())["images"]) == 1


# As torch is where it was built for CUDA, as far as ComfyUI looks; it notes who asks for a GPU.
CUDA_BUILD = """
import os
import torch

torch.version.cuda = "12.8"

def asking(name, answer):
    def ask(*_given, **_named):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{name} {os.environ.get('CUDA_VISIBLE_DEVICES')!r}\\n")
        if answer is None:
            raise RuntimeError("No CUDA GPUs are available")
        return answer
    return ask

torch.cuda.is_available = asking("is_available", False)
torch.cuda.device_count = asking("device_count", 0)
torch.cuda._lazy_init = asking("_lazy_init", None)
"""


def open_below(folder):
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(fd.readlink())
    return [path for path in found if path.is_relative_to(folder)]


async def runs_after_connecting(handler):
    await handler.revive()
    return await runs(handler)


def pid_of(stages):
    return stages.handler._engine._process.pid


@pytest.fixture
async def made():
    """Give what makes stages; all are stopped."""
    every = []

    def make(*given, **named):
        every.append(Stages(*given, **named))
        return every[-1]

    yield make
    for stages in every:
        await stages.stop()
        await stages.stop()


async def test_off_boots_after_the_restore(tmp_path, made):
    """Nothing is there before."""
    stages = made(settings_in(tmp_path), "off")
    await stages.before_snapshot()
    assert stages._handler is None

    handler = await stages.after_restore()

    assert handler is stages.handler
    assert await runs(handler)
    told = handler.health().boot["snapshot"]
    assert (told["mode"], told["restored"], told["failures"]) == ("off", False, 0)
    assert "error" not in told


@pytest.mark.parametrize("mode", ["cpu", "gpu"])
async def test_what_booted_before_goes_on_after(tmp_path, made, mode):
    """The same engine's process, warmed up before; connected anew."""
    warm = json.dumps(GRAPH)
    stages = made(settings_in(tmp_path, WARMUP_PROMPT_JSON=warm), mode, tmp_path / "restores.json")
    (tmp_path / "state" / "outbox").mkdir(parents=True)  # it is opened at the start
    await stages.before_snapshot()
    pid = pid_of(stages)
    assert not stages.handler._engine._runs.socket.connected  # no connection is in the snapshot
    assert stages.handler._engine._client._session is None
    assert open_below(tmp_path / "state") == []  # a Volume with open files cannot be reloaded

    handler = await stages.after_restore()

    assert pid_of(stages) == pid
    assert await runs(handler)
    told = handler.health().boot["snapshot"]
    assert (told["mode"], told["restored"]) == (mode, True)
    assert told["seconds"] < 5
    assert not (tmp_path / "restores.json").exists()


async def test_two_bad_restores_lead_to_plain_boots(tmp_path, made, caplog):
    """Each mends itself by a plain boot; from then on nothing is restored."""
    settings, file = settings_in(tmp_path), tmp_path / "restores.json"
    for failures in (1, 2):
        stages = made(settings, "gpu", file)
        await stages.before_snapshot()
        stages._seen = replace(stages._seen, device="NVIDIA H100")
        before = pid_of(stages)

        handler = await stages.after_restore()

        assert await runs(handler)
        assert not alive(before)
        told = handler.health().boot["snapshot"]
        assert (told["restored"], told["failures"]) == (False, failures)
        assert NO_GPU in told["error"]
        assert f"given up ({failures} in a row)" in caplog.text
        await stages.stop()
    assert json.loads(file.read_text())["failures"] == 2

    third = made(settings, "gpu", file)
    await third.before_snapshot()
    assert third._handler is None
    told = (await third.after_restore()).health().boot["snapshot"]
    assert (told["restored"], told["failures"]) == (False, 2)
    assert "2 restores in a row" in told["error"]
    await third.stop()

    new_image = made(settings, "gpu", file, image="another")
    await new_image.before_snapshot()
    told = (await new_image.after_restore()).health().boot["snapshot"]
    assert (told["restored"], told["failures"]) == (True, 0)


async def test_a_snapshot_of_before_the_failures_is_dropped_at_once(tmp_path, made):
    """Its engine is ended without a try."""
    file = tmp_path / "restores.json"
    stages = made(settings_in(tmp_path), "cpu", file)
    await stages.before_snapshot()
    pid = pid_of(stages)
    for _ in range(2):
        stages._restores.failed("elsewhere")

    handler = await stages.after_restore()

    assert not alive(pid)
    assert "elsewhere" in handler.health().boot["snapshot"]["error"]
    assert stages._restores.failures == 2
    assert await runs(handler)


async def test_an_engine_that_hangs_after_the_restore_is_replaced(tmp_path, made):
    """The time limit counts it as a bad restore."""
    stages = made(settings_in(tmp_path), "gpu", tmp_path / "restores.json", limit_s=1.0)
    await stages.before_snapshot()
    pid = pid_of(stages)
    os.kill(pid, signal.SIGSTOP)

    handler = await stages.after_restore()

    assert not alive(pid)
    told = handler.health().boot["snapshot"]
    assert told["error"] == "it was not ready within 1 s"
    assert await runs(handler)


async def test_an_engine_that_is_gone_after_the_restore_is_started_again(tmp_path, made):
    """That is no bad restore: the revival mends it."""
    stages = made(settings_in(tmp_path), "gpu")
    await stages.before_snapshot()
    pid = pid_of(stages)
    os.kill(pid, signal.SIGKILL)

    handler = await stages.after_restore()

    assert pid_of(stages) != pid
    assert handler.health().boot["snapshot"]["restored"] is True
    assert await runs(handler)


async def test_an_engine_that_cannot_boot_is_told(tmp_path, made):
    """Mode gpu tells it before the snapshot, cpu after it: only then there is a GPU."""
    bad = settings_in(tmp_path, ENGINE="comfyui", COMFY_HOME=str(tmp_path / "nowhere"))
    gpu = made(bad, "gpu")
    with pytest.raises(BootFailed, match="holds no main"):
        await gpu.before_snapshot()
    assert gpu._handler is None
    cpu = made(bad, "cpu")
    await cpu.before_snapshot()
    with pytest.raises(BootFailed, match="holds no main"):
        await cpu.after_restore()
    assert list((tmp_path / "work").glob("*")) == []


async def test_a_command_of_the_operators_waits_for_the_gpu(tmp_path, made):
    """It cannot be given our node, and might touch the GPU."""
    stages = made(settings_in(tmp_path, ENGINE="comfyui", CMD="sleep 60"), "cpu")
    await stages.before_snapshot()

    assert stages._handler is None
    assert list((tmp_path / "work").glob("*")) == []


async def test_settings_are_read_again_after_the_restore(tmp_path, made):
    """Modal updates the environment then: a worker's name, and its keys."""
    settings = settings_in(tmp_path)
    stages = made(settings, "gpu", reread=lambda: replace(settings, instance_id="task-2"))
    await stages.before_snapshot()

    handler = await stages.after_restore()

    async with await handler.handle({"prompt": GRAPH}) as answer:
        assert (await answer.json())["stats"]["instance"] == "task-2"


def test_the_hooks_run_in_modals_own_loop(tmp_path):
    """It stands still between two of them: what one began goes on in the next."""
    stages = Stages(settings_in(tmp_path), "gpu")
    with UserCodeEventLoop() as loop:
        loop.run(stages.before_snapshot())
        try:
            time.sleep(6)  # over every heartbeat; nothing of ours runs meanwhile
            handler = loop.run(stages.after_restore())
            assert handler.health().boot["snapshot"]["restored"] is True
            assert loop.run(runs(handler))
        finally:
            loop.run(stages.stop())


async def test_what_the_engine_says_of_its_gpu_is_told(tmp_path, made):
    """Whoever reads the boot report need not look further."""
    stages = made(settings_in(tmp_path), "gpu")
    await stages.before_snapshot()
    stages._site.node = SnapshotNode(hides_gpu=True)  # which this engine has not

    handler = await stages.after_restore()

    told = handler.health().boot["snapshot"]["error"]
    assert told.startswith("The engine answered /comfyfn/wake with 405")
    assert "Not Allowed" in told


@pytest.mark.comfyui
@pytest.mark.timeout(200)
@pytest.mark.skipif(not COMFY_HOME, reason="needs COMFY_HOME")
async def test_a_real_comfyui_boots_asleep_and_is_woken(tmp_path, made):
    """It runs graphs before and after; a crash later starts it as it is started plainly."""
    settings = comfyui_in(tmp_path, WARMUP_PROMPT_JSON=json.dumps(GRAPH))
    stages = made(settings, "cpu", tmp_path / "restores.json")
    await stages.before_snapshot()
    engine, pid = stages.handler._engine, pid_of(stages)
    assert "--cpu" not in engine._site.command
    assert len(list((await engine.object_info()).classes)) > 100
    assert not any("got prompt" in line for line in engine.log_tail())  # the warmup has to wait
    await stages.handler.revive()
    assert await runs(stages.handler)
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in environ

    handler = await stages.after_restore()

    assert pid_of(stages) == pid
    assert await runs(handler)
    told = handler.health().boot["snapshot"]
    assert (told["restored"], told["device"]) == (True, "cpu")
    assert any("awake on cpu" in line for line in engine._process.log_lines())
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while stages.handler.health().health.value != "ready" or pid_of(stages) == pid:
            await asyncio.sleep(0.1)
    assert "--cpu" in engine._site.command
    assert await runs(handler)


@pytest.mark.comfyui
@pytest.mark.timeout(200)
@pytest.mark.skipif(not COMFY_HOME, reason="needs COMFY_HOME")
async def test_a_real_comfyui_without_a_gpu_after_the_restore_is_no_success(tmp_path, made):
    """Where a GPU is asked for, the CPU will not do; nor does a plain boot help."""
    file = tmp_path / "restores.json"
    stages = made(comfyui_in(tmp_path, ALLOW_CPU="false"), "cpu", file)
    await stages.before_snapshot()
    pid = pid_of(stages)

    with pytest.raises(BootFailed, match="GPU cannot be used"):
        await stages.after_restore()

    assert NO_GPU in json.loads(file.read_text())["error"]
    assert not alive(pid)


@pytest.mark.comfyui
@pytest.mark.timeout(200)
@pytest.mark.skipif(not COMFY_HOME, reason="needs COMFY_HOME")
async def test_a_real_comfyui_decides_for_a_gpu_and_asks_for_none(tmp_path, made, monkeypatch):
    """With torch for CUDA its attention is that of a GPU; nobody asks before the wake."""
    pack = tmp_path / "packs" / "cuda_build"
    pack.mkdir(parents=True)
    (pack / "prestartup_script.py").write_text(CUDA_BUILD)
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    config = tmp_path / "packs.yaml"
    config.write_text(f"test:\n  custom_nodes: {tmp_path / 'packs'}\n")
    asked = tmp_path / "asked"
    asked.touch()
    monkeypatch.setenv("ASKED", str(asked))
    stages = made(comfyui_in(tmp_path, COMFY_ARGS=f"--extra-model-paths-config {config}"), "cpu")
    await stages.before_snapshot()
    lines = stages.handler._engine._process.log_lines()
    assert await runs_after_connecting(stages.handler)
    assert any("Using pytorch attention" in line for line in lines)
    assert any("Set vram state to: NORMAL_VRAM" in line for line in lines)
    assert asked.read_text() == ""

    handler = await stages.after_restore()

    assert asked.read_text().splitlines()[0] == "is_available None"
    assert await runs(handler)


@pytest.mark.comfyui
@pytest.mark.timeout(200)
@pytest.mark.skipif(not COMFY_HOME, reason="needs COMFY_HOME")
async def test_a_real_comfyui_is_frozen_warm(tmp_path, made):
    """Mode gpu: all is done before; afterwards it is connected to, reseeded and tested."""
    stages = made(comfyui_in(tmp_path, WARMUP_PROMPT_JSON=json.dumps(GRAPH)), "gpu")
    await stages.before_snapshot()
    engine, pid = stages.handler._engine, pid_of(stages)
    assert any("got prompt" in line for line in engine.log_tail())

    handler = await stages.after_restore()

    assert pid_of(stages) == pid
    assert handler.health().boot["snapshot"]["restored"] is True
    assert await runs(handler)
