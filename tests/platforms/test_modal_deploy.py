"""`modal deploy adapters/modal_app.py`: the real command line, and what it asks of Modal."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from live import REPO
from modal_proto import api_pb2
from platforms.modal_world import APP, MODAL, World

from adapters.modal_knobs import HOME, PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VENV = PYTHON.removesuffix("/bin/python")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give Modal's stand-in."""
    with World(tmp_path) as running:
        yield running


def created(world: World, name: str = "Worker.*") -> Any:
    """Give the function that was asked for."""
    return world.modal.functions[world.modal.named(name)]


def commands(world: World) -> list[str]:
    """List the image's steps, layer by layer."""
    layers = world.modal.asked("ImageGetOrCreate")
    return [line for layer in layers for line in layer.image.dockerfile_commands]


def environment(world: World) -> dict[str, str]:
    """Give what the container's environment is to be."""
    values = [world.modal.secret_values[one] for one in created(world).secret_ids]
    return next(one for one in values if "JOB_TIMEOUT_S" in one)


def test_what_is_asked_for_without_a_knob(world: World) -> None:
    """GPU, scaling, limits that go together, snapshot, Volumes, an address that asks for a key."""
    world.cli("deploy", APP)
    worker = created(world)

    gpu = worker.resources.gpu_config
    assert (gpu.gpu_type, gpu.count) == ("L40S", 1)
    assert (worker.resources.milli_cpu, worker.resources.memory_mb) == (4000, 16384)
    assert worker.checkpointing_enabled
    assert not worker.experimental_options
    assert (worker.max_concurrent_inputs, worker.target_concurrent_inputs) == (8, 2)
    scaling = worker.autoscaler_settings
    assert (scaling.min_containers, scaling.max_containers, scaling.buffer_containers) == (0, 4, 0)
    assert worker.task_idle_timeout_secs == scaling.scaledown_window == 120
    told = environment(world)
    assert worker.timeout_secs > int(told["JOB_TIMEOUT_S"])
    assert worker.startup_timeout_secs > int(told["BOOT_TIMEOUT_S"])
    volumes = {one.mount_path: one.allow_background_commits for one in worker.volume_mounts}
    assert volumes == {"/vol/models": True, "/vol/state": True}
    assert told["MODEL_DIR"] == "/vol/models"
    names = [one.deployment_name for one in world.modal.asked("VolumeGetOrCreate")]
    assert sorted(names) == ["comfyfn-models", "comfyfn-state"]
    hook = worker.method_definitions["web"].webhook_config
    assert (hook.type, hook.requires_proxy_auth) == (api_pb2.WEBHOOK_TYPE_ASGI_APP, True)
    kinds = {name: one.function_type for name, one in worker.method_definitions.items()}
    assert kinds["run"] == api_pb2.Function.FUNCTION_TYPE_FUNCTION
    assert kinds["stream"] == api_pb2.Function.FUNCTION_TYPE_GENERATOR
    assert created(world, "fill").function_type == api_pb2.Function.FUNCTION_TYPE_GENERATOR
    (published,) = world.modal.asked("AppPublish")
    assert published.name == "comfyfn"
    assert set(published.class_ids) == {"Worker"}
    assert world.modal.unknown == []


def test_every_knob_is_a_variable(world: World) -> None:
    """What the deploying shell sets is what Modal is asked for, and what the container is told."""
    world.modal.secrets = {"huggingface": {"HF_TOKEN": "hf_x"}, "storage": {}}
    said = world.deploy(
        {"WARMUP_FAILURE": "continue", "SYSTEM_META_TEAM": "two words"},
        COMFYFN_APP="studio",
        COMFYFN_GPU="H100:2",
        COMFYFN_CPU="8",
        COMFYFN_MEMORY="65536",
        COMFYFN_REGION="us-east,eu",
        COMFYFN_MIN_CONTAINERS="1",
        COMFYFN_MAX_CONTAINERS="9",
        COMFYFN_BUFFER_CONTAINERS="2",
        COMFYFN_SCALEDOWN_WINDOW="600",
        COMFYFN_MAX_INPUTS="20",
        COMFYFN_TARGET_INPUTS="3",
        COMFYFN_JOB_TIMEOUT="3600",
        COMFYFN_TIMEOUT="7200",
        COMFYFN_STARTUP_TIMEOUT="1200",
        COMFYFN_SNAPSHOT="gpu",
        COMFYFN_PROXY_AUTH="false",
        COMFYFN_LABEL="pictures",
        COMFYFN_MODELS_VOLUME="weights",
        COMFYFN_SECRETS="huggingface,storage",
    )
    assert said.returncode == 0
    worker = created(world)
    gpu = worker.resources.gpu_config
    assert (gpu.gpu_type, gpu.count) == ("H100", 2)
    assert (worker.resources.milli_cpu, worker.resources.memory_mb) == (8000, 65536)
    assert list(worker.scheduler_placement.regions) == ["us-east", "eu"]
    scaling = worker.autoscaler_settings
    assert (scaling.min_containers, scaling.max_containers, scaling.buffer_containers) == (1, 9, 2)
    assert scaling.scaledown_window == 600
    assert (worker.max_concurrent_inputs, worker.target_concurrent_inputs) == (20, 3)
    assert (worker.timeout_secs, worker.startup_timeout_secs) == (7200, 1200)
    assert worker.checkpointing_enabled
    assert dict(worker.experimental_options) == {"enable_gpu_snapshot": "True"}
    hook = worker.method_definitions["web"].webhook_config
    assert (hook.requires_proxy_auth, hook.requested_suffix) == (False, "pictures")
    assert worker.app_name == "studio"
    values = [world.modal.secret_values[one] for one in worker.secret_ids]
    assert {"HF_TOKEN": "hf_x"} in values
    told = next(one for one in values if "COMFY_HOME" in one)
    assert told["SYSTEM_META_TEAM"] == "two words"
    assert (told["JOB_TIMEOUT_S"], told["BOOT_TIMEOUT_S"]) == ("3600", "1140")
    assert told["COMFYFN_GPU"] == "H100:2"  # the container reads the same table
    names = {one.deployment_name for one in world.modal.asked("VolumeGetOrCreate")}
    assert names == {"weights", "comfyfn-state"}


def test_several_gpus_are_a_preference(world: World) -> None:
    """Modal takes the first that is free; without snapshots none is asked for."""
    world.deploy(COMFYFN_GPU="H100,L40S:2", COMFYFN_SNAPSHOT="off")
    request = next(
        one for one in world.modal.asked("FunctionCreate") if one.function_data.ranked_functions
    )
    gpus = [one.function.resources.gpu_config for one in request.function_data.ranked_functions]
    assert [(one.gpu_type, one.count) for one in gpus] == [("H100", 1), ("L40S", 2)]
    assert not created(world).checkpointing_enabled


def test_the_image_is_made_from_the_manifest(world: World, tmp_path: Path) -> None:
    """ComfyUI at the manifest's pin in its own environment, then packs, then a boot as a check."""
    manifest, warmup, graphs = tmp_path / "my.yaml", tmp_path / "w.json", tmp_path / "graphs"
    manifest.write_text('comfyui: "0.3.60"\napt: [ffmpeg]\ncustom_nodes: [comfyui-kjnodes]\n')
    (tmp_path / "my.lock.yaml").write_text("manifest: x\n")
    warmup.write_text("{}")
    graphs.mkdir()
    (graphs / "txt2img.json").write_text("{}")
    world.deploy(
        COMFYFN_MANIFEST=str(manifest),
        COMFYFN_WARMUP=str(warmup),
        COMFYFN_WORKFLOWS=str(graphs),
        COMFYFN_BASE_IMAGE="nvidia/cuda:12.8.1-devel-ubuntu24.04",
    )
    steps = commands(world)
    order = [
        "FROM nvidia/cuda:12.8.1-devel-ubuntu24.04",
        "apt-get install -y git",
        "uv pip install --python $(command -v python)",
        f"uv venv {VENV}",
        f"uv pip install --python {PYTHON} torch",
        "fetch -q --depth 1 origin v0.3.60",
        f"-r {HOME}/requirements.txt",
        "manifest apply /opt/comfyfn/manifest.yaml --skip-models --locked",
        "python -m adapters.image_check",
        f"ln -s {world.home}/vol/models {HOME}/models",
    ]
    places = [next(i for i, step in enumerate(steps) if text in step) for text in order]
    assert places == sorted(places)
    mounted = {file.filename for one in world.modal.asked("MountGetOrCreate") for file in one.files}
    ours = {"/root/modal_app.py", "/root/handler/service.py", "/root/adapters/modal_jobs.py"}
    files = {"/opt/comfyfn/manifest.yaml", "/opt/comfyfn/manifest.lock.yaml"}
    files |= {"/opt/comfyfn/warmup.json", "/opt/comfyfn/workflows/txt2img.json"}
    assert ours | files <= mounted
    assert not any("__pycache__" in name for name in mounted)
    told = environment(world)
    assert told["MANIFEST"] == "/opt/comfyfn/manifest.yaml"
    assert told["WARMUP_PROMPT_FILE"] == "/opt/comfyfn/warmup.json"
    assert told["WORKFLOW_DIR"] == "/opt/comfyfn/workflows"


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"COMFYFN_SECRETS": "huggingface"}, "Secret 'huggingface' not found"),
        ({"COMFYFN_TIMEOUT": "60"}, "must be over COMFYFN_JOB_TIMEOUT"),
        ({"COMFYFN_GPU": "a big one", "COMFYFN_SNAPSHOT": "x"}, "COMFYFN_SNAPSHOT='x' is none of"),
        ({"COMFYFN_MANIFEST": "nowhere.yaml"}, "nowhere.yaml is not there"),
        ({"COMFYFN_MAX_INPUTS": "1"}, "COMFYFN_MAX_INPUTS='1' is not between 2 and 1000"),
    ],
)
def test_what_cannot_be_deployed_is_told(world: World, knobs: dict[str, str], told: str) -> None:
    """The command fails with the reason, and nothing is published."""
    said = world.cli("deploy", APP, **knobs)
    assert said.returncode == 1
    assert told in " ".join((said.stdout + said.stderr).replace("│", " ").split())
    assert world.modal.asked("AppPublish") == []


def test_a_wrong_knob_is_one_line(world: World) -> None:
    """No traceback: it is nothing that a programmer has to mend."""
    said = world.cli("deploy", APP, COMFYFN_GPU="a big one")
    assert said.returncode == 1
    (line,) = (said.stdout + said.stderr).splitlines()
    assert line.startswith("comfyfn: COMFYFN_GPU='a big one' is no list of GPUs")


def test_a_manifest_with_faults_is_told_with_their_lines(world: World, tmp_path: Path) -> None:
    """Before anything is built."""
    manifest = tmp_path / "my.yaml"
    manifest.write_text("custom_node: []\n")
    said = world.cli("deploy", APP, COMFYFN_MANIFEST=str(manifest))
    assert said.returncode == 1
    assert "custom_node" in said.stdout + said.stderr
    assert world.modal.asked("ImageGetOrCreate") == []


def test_serve_watches_until_it_is_interrupted(world: World) -> None:
    """`modal serve` makes an app of its own, and ends it."""
    process = subprocess.Popen(
        [MODAL, "serve", APP],
        cwd=REPO,
        env={**world._env(), **world.knobs()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert any("Serving" in line for line in process.stdout)
    for _ in range(3):  # its own handler is there a moment after the line
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
            break
    assert process.returncode == 0
    assert world.modal.asked("AppPublish")[0].app_state == api_pb2.APP_STATE_EPHEMERAL
    assert len(world.modal.asked("AppClientDisconnect")) == 1


def test_settings_with_spaces_arrive_as_they_are(world: World) -> None:
    """COMFYFN_ENV is quoted as in a shell, and again on its way to the container."""
    given = {"OUTPUT_STORAGE": '{"volume": {"path": "/vol/out put"}}', "HF_ENDPOINT": "https://h"}
    world.deploy(given)
    told = environment(world)
    assert {name: told[name] for name in given} == given
    again = dict(word.split("=", 1) for word in shlex.split(told["COMFYFN_ENV"]))
    assert again == given
