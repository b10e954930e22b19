"""From settings to a started process."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from live import free_port

from handler.engine.boot import launch, open_site
from handler.engine.roots import Registry
from handler.errors import BootFailed
from handler.settings import Settings

GOOD = {
    "torch": {"__version__": "2.6.0", "cuda": "12.4", "hip": None},
    "gpu": {"driver_cuda": [12, 4], "devices": [{"name": "a GPU", "vram_bytes": 1 << 30}]},
}
BAD = {**GOOD, "gpu": {"error": "no driver is visible"}}
NO_TORCH = {"torch": None, "gpu": {"error": "no driver is visible"}}


@pytest.fixture
def home(tmp_path):
    """A folder that looks like ComfyUI, with an interpreter that answers as it is told."""
    home = tmp_path / "comfy"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / "main.py").touch()
    return home


def interpreter(home, found, folders=None):
    """Make the interpreter: the probes get `found` and `folders`, all else is printed and ends."""
    python = home / ".venv" / "bin" / "python"
    answer, registry = json.dumps(found), json.dumps(folders)
    python.write_text(
        f"#!/bin/sh\ncase $1 in *probe_gpu.py) echo '{answer}';; -B) echo '{registry}';; "
        '*) for a; do echo "$a"; done; pwd;; esac\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)


def site_of(tmp_path, volumes=(), **env):
    env = {"COMFYUI_PORT_HOST": str(free_port()), "WORK_DIR": str(tmp_path / "work"), **env}
    return open_site(Settings.from_env(env), embedded_allowed=True, volumes=volumes)


def printed(site):
    """Launch, wait for the end, and give what the command printed."""
    over = threading.Event()
    process = launch(site)
    process.watch(lambda _code: over.set())
    assert over.wait(20)
    process.stop()
    return process.log_tail()


def test_a_site_makes_its_folders_and_removes_its_scratch(tmp_path):
    """Scratch is ours alone; inputs and outputs are the engine's and stay."""
    site = site_of(
        tmp_path,
        INPUT_DIR=str(tmp_path / "a" / "in"),
        OUTPUT_DIR=str(tmp_path / "out"),
        MODEL_DIR=str(tmp_path / "models"),
    )
    assert site.kind == "embedded"
    assert site.scratch.parent == tmp_path / "work"
    assert all((tmp_path / name).is_dir() for name in ("a/in", "out", "models"))
    other = site_of(tmp_path)
    assert other.scratch != site.scratch

    site.close()
    other.close()
    assert list((tmp_path / "work").iterdir()) == []
    assert (tmp_path / "out").is_dir()


def test_a_scratch_folder_without_a_place_of_its_own_is_a_temporary_one(tmp_path):
    """WORK_DIR need not be set."""
    settings = Settings(input_dir=tmp_path, output_dir=tmp_path, model_dir=tmp_path)
    site = open_site(settings, embedded_allowed=True)

    assert site.scratch.is_dir()
    site.close()
    assert not site.scratch.exists()


@pytest.mark.parametrize("name", ["INPUT_DIR", "OUTPUT_DIR", "MODEL_DIR", "WORK_DIR"])
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, name):
    """It is named, and no scratch folder is left behind."""
    (tmp_path / "file").touch()
    bad = tmp_path / "file" / "folder"
    with pytest.raises(BootFailed, match=str(bad)) as caught:
        site_of(tmp_path, **{name: str(bad)})

    assert name in caught.value.hint
    assert not list(tmp_path.glob("work/*"))


def test_an_attached_engine_gets_its_folders_below_the_scratch(tmp_path):
    """They hold what is uploaded."""
    site = site_of(tmp_path, COMFY_URL="http://127.0.0.1:1")

    assert site.kind == "attached"
    assert site.folders.input.is_dir()
    assert site.folders.input.is_relative_to(site.scratch)
    site.close()


def test_comfyui_is_launched_in_its_home_with_our_arguments(tmp_path, home):
    """The GPU is asked first; what was found is kept."""
    interpreter(home, GOOD)
    site = site_of(tmp_path, COMFY_HOME=str(home), COMFY_ARGS="--lowvram")
    lines = printed(site)

    assert lines[0] == str(home / "main.py")
    assert lines[-2:] == ["--lowvram", str(home)]
    assert "--cpu" not in lines
    assert site.preflight.gpu == "a GPU"
    site.close()


def test_a_gpu_that_cannot_be_used_is_refused_before_the_start(tmp_path, home):
    """The answer is clear, in place of a ComfyUI that dies again and again."""
    interpreter(home, BAD)
    site = site_of(tmp_path, COMFY_HOME=str(home))
    with pytest.raises(BootFailed, match="no driver is visible") as caught:
        launch(site)
    site.close()

    assert "ALLOW_CPU" in caught.value.hint
    assert caught.value.details == {
        "torch": "2.6.0",
        "gpu": None,
        "vram_mb": None,
        "cause": "gpu_fault",
    }
    assert not caught.value.retryable


@pytest.mark.parametrize("allow", ["true", "false"])
def test_an_interpreter_without_torch_is_refused_before_the_start(tmp_path, home, allow):
    """Whose it is, and what to set: ComfyUI would only die with a missing module."""
    interpreter(home, NO_TORCH)
    with contextlib.closing(site_of(tmp_path, COMFY_HOME=str(home), ALLOW_CPU=allow)) as site:
        with pytest.raises(BootFailed, match="which has no torch") as caught:
            launch(site)
        assert site.command is None

    assert caught.value.blame == "image"
    assert caught.value.hint == "set COMFY_PYTHON to ComfyUI's Python"
    assert not caught.value.retryable


def test_without_a_gpu_comfyui_is_told_so_where_that_is_allowed(tmp_path, home):
    """ALLOW_CPU adds `--cpu`."""
    interpreter(home, BAD)
    site = site_of(tmp_path, COMFY_HOME=str(home), ALLOW_CPU="true")

    assert "--cpu" in printed(site)
    site.close()


@pytest.mark.parametrize(
    ("env", "found", "asked"),
    [
        ({}, GOOD, True),
        ({"ALLOW_CPU": "true"}, GOOD, False),
        ({}, NO_TORCH, False),
    ],
)
def test_a_command_of_the_operators_is_checked_where_its_interpreter_is_known(
    tmp_path, home, env, found, asked
):
    """With COMFY_HOME the interpreter is guessed; a guess without torch says nothing."""
    interpreter(home, found)
    site = site_of(tmp_path, COMFY_HOME=str(home), CMD="echo 'hello there'", **env)

    assert printed(site) == ["hello there"]
    assert (site.preflight is not None) is asked
    site.close()


def test_a_command_of_the_operators_alone_is_taken_as_it_is(tmp_path):
    """There is no interpreter to ask."""
    site = site_of(
        tmp_path,
        CMD="echo hello",
        INPUT_DIR=str(tmp_path / "i"),
        OUTPUT_DIR=str(tmp_path / "o"),
        MODEL_DIR=str(tmp_path / "m"),
    )

    assert printed(site) == ["hello"]
    assert site.preflight is None
    site.close()


def told_paths(lines):
    """Read the file that the command names."""
    config = lines[lines.index("--extra-model-paths-config") + 1]
    return json.loads(Path(config).read_text())


def test_a_models_folder_elsewhere_is_named_to_comfyui(tmp_path, home):
    """By a file, first in the search, and with the folders it looks into."""
    interpreter(home, GOOD)
    models = tmp_path / "volume"
    site = site_of(tmp_path, COMFY_HOME=str(home), MODEL_DIR=str(models))
    told = told_paths(printed(site))["comfyfn"]

    assert told["is_default"] is True
    assert told["checkpoints"] == str(models / "checkpoints")
    assert (models / "checkpoints").is_dir()
    site.close()


def test_a_models_folder_that_cannot_be_written_is_taken_as_it_is(tmp_path, home):
    """A volume may be read-only, or hold a file where a folder is looked for."""
    interpreter(home, GOOD)
    models = tmp_path / "volume"
    models.mkdir()
    (models / "checkpoints").touch()
    site = site_of(tmp_path, COMFY_HOME=str(home), MODEL_DIR=str(models))

    told = told_paths(printed(site))["comfyfn"]
    assert set(Registry().places) - set(told) == {"checkpoints"}  # the others are all there
    site.close()


def test_comfyuis_own_models_folder_needs_no_file(tmp_path, home):
    """It looks there by itself, and is not asked for its folders."""
    interpreter(home, GOOD)
    site = site_of(tmp_path, COMFY_HOME=str(home), MODEL_DIR=str(home / "models"))

    assert "--extra-model-paths-config" not in printed(site)
    assert site.registry is None
    site.close()


def test_roots_and_volumes_are_named_to_comfyui_by_its_own_registry(tmp_path, home):
    """A folder that only this ComfyUI knows is found at a volume's top."""
    registry = {"models_dir": f"{home}/models", "folders": {"news": [[f"{home}/models/news"], []]}}
    interpreter(home, GOOD, registry)
    for folder in ("root/models/news", "root/models/pack", "volume/news", "volume/vae"):
        (tmp_path / folder).mkdir(parents=True)
    site = site_of(
        tmp_path,
        volumes=[tmp_path / "volume", tmp_path / "absent"],
        COMFY_HOME=str(home),
        MODEL_ROOTS=f"{tmp_path / 'root'}:{tmp_path / 'gone'}",
    )
    told = told_paths(printed(site))

    assert told == {
        "comfyfn": {
            "is_default": False,
            "news": str(tmp_path / "root/models/news"),
            "pack": str(tmp_path / "root/models/pack"),
        },
        "comfyfn_1": {"is_default": False, "news": str(tmp_path / "volume/news")},
    }
    tried = {root.path.name: root.problem for root in site.tried_roots()}
    assert tried == {
        "models": None,
        "root": None,
        "gone": "No such file or directory",
        "volume": None,
        "absent": "it is not there",
    }
    site.close()


def test_a_command_of_the_operators_is_told_of_no_roots(tmp_path, home):
    """It is run as it is; the report says why a root is not searched."""
    interpreter(home, GOOD)
    (tmp_path / "root" / "vae").mkdir(parents=True)
    env = {"COMFY_HOME": str(home), "CMD": "echo hello", "MODEL_ROOTS": str(tmp_path / "root")}
    site = site_of(tmp_path, **env)

    assert printed(site) == ["hello"]
    assert "CMD starts the engine" in site.tried_roots()[-1].problem
    assert not list(site.scratch.glob("*.yaml"))
    site.close()


def test_the_embedded_engine_is_told_of_roots(tmp_path):
    """By the usual names: there is no ComfyUI to ask."""
    (tmp_path / "root" / "unet").mkdir(parents=True)
    site = site_of(
        tmp_path,
        INPUT_DIR=str(tmp_path / "i"),
        OUTPUT_DIR=str(tmp_path / "o"),
        MODEL_DIR=str(tmp_path / "m"),
        MODEL_ROOTS=str(tmp_path / "root"),
        COMFY_ARGS="--test-exit-at-boot 0",
        COMFYFN_TEST_FAULTS="true",
    )
    printed(site)

    assert told_paths(site.command) == {
        "comfyfn": {"is_default": False, "diffusion_models": str(tmp_path / "root" / "unet")}
    }
    site.close()


@pytest.mark.parametrize("by_file", [True, False])
def test_the_warmups_models_are_read_ahead_from_the_launch_on(tmp_path, home, by_file):
    """Found below the roots, without the engine; ended with what was read."""
    interpreter(home, GOOD)
    model = tmp_path / "root" / "models" / "checkpoints" / "a.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(5000))
    text = json.dumps({"1": {"class_type": "X", "inputs": {"name": "a.safetensors"}}})
    (tmp_path / "warmup.json").write_text(text)
    warmup = {"WARMUP_PROMPT_JSON": text}
    if by_file:
        warmup = {"WARMUP_PROMPT_FILE": str(tmp_path / "warmup.json")}
    site = site_of(tmp_path, COMFY_HOME=str(home), MODEL_ROOTS=str(tmp_path / "root"), **warmup)
    printed(site)
    assert site.reader.wait(20)

    told = site.end_read_ahead()
    assert told["roots"].keys() == {str(tmp_path / "root")}
    assert told["not_found"] == []
    assert site.end_read_ahead() is None
    site.close()


@pytest.mark.parametrize("warmup", ["{}", "no json"])
def test_nothing_is_read_ahead_where_nothing_is_known(tmp_path, home, warmup):
    """A warmup that is broken is told when it is to be run."""
    interpreter(home, GOOD)
    site = site_of(tmp_path, COMFY_HOME=str(home), WARMUP_PROMPT_JSON=warmup)
    printed(site)

    assert site.end_read_ahead() is None
    site.close()


def test_read_ahead_can_be_turned_off(tmp_path):
    """READ_AHEAD=false; and a ComfyUI on another machine has no files here."""
    off = site_of(tmp_path, ENGINE="embedded", READ_AHEAD="false")
    attached = site_of(tmp_path, COMFY_URL="http://127.0.0.1:1")
    for site in (off, attached):
        site.read_ahead(["a.safetensors"])
        assert site.reader is None
        site.close()


def test_the_time_before_the_first_launch_is_noted_once(tmp_path, home):
    """A cold start is counted from our own process's start."""
    interpreter(home, GOOD)
    site = site_of(tmp_path, COMFY_HOME=str(home))
    printed(site)
    first = site.process_s
    printed(site)

    assert first > 0
    assert site.process_s == first
    site.close()


def test_the_engine_gets_our_environment_without_our_secrets(tmp_path, monkeypatch):
    """Node packs read the environment, too."""
    monkeypatch.setenv("WEBHOOK_SECRET", "s3cret")
    monkeypatch.setenv("COMFYFN_SEEN", "yes")
    folders = {name: str(tmp_path / name) for name in ("INPUT_DIR", "OUTPUT_DIR", "MODEL_DIR")}
    site = site_of(tmp_path, CMD="env", **folders)
    lines = printed(site)

    assert "COMFYFN_SEEN=yes" in lines
    assert "PYTHONUNBUFFERED=1" in lines
    assert not any("s3cret" in line for line in lines)
    assert f"PATH={os.environ['PATH']}" in lines
    site.close()
