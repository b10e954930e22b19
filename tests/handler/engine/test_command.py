"""Which engine, in which folders, by which command."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from handler.engine.command import (
    CACHED_NODES,
    comfyui_command,
    embedded_command,
    engine_environment,
    engine_kind,
    folders,
    interpreter,
)
from handler.errors import BootFailed
from handler.settings import Settings

SCRATCH = Path("/scratch")


@pytest.fixture
def home(tmp_path):
    """A folder that looks like ComfyUI."""
    (tmp_path / "main.py").touch()
    return tmp_path


def after(command, flag):
    return command[command.index(flag) + 1]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "embedded"),
        ({"engine": "embedded"}, "embedded"),
        ({"comfy_url": "http://h:1"}, "attached"),
        ({"engine": "comfyui", "comfy_url": "http://h:1"}, "attached"),
        ({"comfy_command": ("python", "main.py")}, "comfyui"),
        ({"engine": "comfyui", "comfy_command": ("x",)}, "comfyui"),
    ],
)
def test_the_engine_follows_from_what_is_set(given, kind):
    """An explicit word wins, then a URL, a command, a folder; else the embedded one."""
    assert engine_kind(Settings(**given), embedded_allowed=True) == kind


def test_a_folder_with_a_main_file_is_comfyui(home):
    """COMFY_HOME alone is enough."""
    assert engine_kind(Settings(comfy_home=home), embedded_allowed=False) == "comfyui"
    given = Settings(comfy_home=home, engine="embedded")
    assert engine_kind(given, embedded_allowed=True) == "embedded"
    assert engine_kind(given, embedded_allowed=False) == "embedded"  # who asks for it has it


@pytest.mark.parametrize(
    ("given", "allowed", "said"),
    [
        ({}, False, "none is set"),
        ({"engine": "comfyui"}, True, "COMFY_HOME, CMD and COMFY_URL are all empty"),
        ({"comfy_home": Path("/nowhere")}, True, "/nowhere holds no main.py"),
    ],
)
def test_no_engine_is_an_error_that_says_what_to_set(given, allowed, said):
    """A mistyped COMFY_HOME is never answered by the embedded engine."""
    with pytest.raises(BootFailed, match=said) as caught:
        engine_kind(Settings(**given), embedded_allowed=allowed)
    assert caught.value.hint
    assert caught.value.blame == "image"
    assert not caught.value.retryable


def test_the_interpreter_is_found_beside_comfyui(home):
    """COMFY_PYTHON, else .venv, else venv, else ours."""
    assert interpreter(Settings()) == Path(sys.executable)
    assert interpreter(Settings(comfy_home=home)) == Path(sys.executable)
    for name in ("venv", ".venv"):
        python = home / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
        assert interpreter(Settings(comfy_home=home)) == python
    given = Settings(comfy_home=home, comfy_python=Path("/p"))
    assert interpreter(given) == Path("/p")


def test_folders_of_comfyui_are_below_its_home_unless_given(home):
    """Its temp folder is ours alone, since ComfyUI wipes it at its start."""
    where = folders(Settings(comfy_home=home), "comfyui", SCRATCH)
    assert (where.input, where.output) == (home / "input", home / "output")
    assert (where.models, where.temp, where.shared) == (home / "models", SCRATCH / "temp", True)

    given = Settings(
        comfy_home=home, input_dir=Path("/i"), output_dir=Path("/o"), model_dir=Path("/m")
    )
    where = folders(given, "comfyui", SCRATCH)
    assert (where.input, where.output, where.models) == (Path("/i"), Path("/o"), Path("/m"))


def test_a_command_of_the_operators_keeps_its_own_temp_folder(home):
    """We cannot tell CMD where to write."""
    by_cmd = Settings(comfy_home=home, comfy_command=("x",))
    assert folders(by_cmd, "comfyui", SCRATCH).temp == home / "temp"
    assert folders(by_cmd, "embedded", SCRATCH).temp == SCRATCH / "temp"
    assert folders(Settings(comfy_command=("x",)), "comfyui", SCRATCH).temp == Path.cwd() / "temp"


def test_an_attached_engine_has_no_folder_in_reach():
    """What we write is uploaded from the scratch folder."""
    where = folders(Settings(comfy_url="http://h"), "attached", SCRATCH)
    assert where.shared is False
    assert where.models is None
    assert where.input.is_relative_to(SCRATCH)


def test_the_embedded_engine_is_started_like_comfyui():
    """The same flags; test faults only where they are asked for."""
    settings = Settings(comfy_port=4242, comfy_args=("--verbose",), model_dir=Path("/m"))
    command = embedded_command(settings, folders(settings, "embedded", SCRATCH))

    assert command[:3] == [sys.executable, "-m", "local_server.engine"]
    assert after(command, "--port") == "4242"
    assert after(command, "--listen") == "127.0.0.1"
    assert after(command, "--models-directory") == "/m"
    assert command[-1] == "--verbose"
    assert "--test-faults" not in command
    given = Settings(test_faults=True)
    assert "--test-faults" in embedded_command(given, folders(given, "embedded", SCRATCH))
    attached = folders(given, "attached", SCRATCH)
    assert "--models-directory" not in embedded_command(given, attached)


def test_comfyui_is_started_for_serving(home):
    """Loopback, our port, our folders, a cache that holds several workflows."""
    settings = Settings(comfy_home=home, comfy_port=4242)
    where = folders(settings, "comfyui", SCRATCH)
    command = comfyui_command(settings, where, cpu=False, model_paths=None)

    assert command[:2] == [sys.executable, str(home / "main.py")]
    assert after(command, "--listen") == "127.0.0.1"
    assert after(command, "--port") == "4242"
    assert after(command, "--input-directory") == str(home / "input")
    assert after(command, "--output-directory") == str(home / "output")
    # ComfyUI makes `temp` below the folder that it is given.
    assert after(command, "--temp-directory") == str(SCRATCH)
    assert after(command, "--cache-lru") == str(CACHED_NODES)
    assert "--disable-auto-launch" in command
    assert "--cpu" not in command
    assert "--extra-model-paths-config" not in command


def test_the_embedded_engine_is_told_of_more_roots():
    """By the same file as ComfyUI."""
    where = folders(Settings(), "embedded", SCRATCH)
    command = embedded_command(Settings(), where, Path("/c.yaml"))

    assert after(command, "--extra-model-paths-config") == "/c.yaml"


def test_the_embedded_engine_gets_one_kind_of_cache():
    """Two would end it in its boot."""
    settings = Settings(comfy_args=("--cache-none",))
    where = folders(settings, "embedded", SCRATCH)

    assert "--cache-lru" not in embedded_command(settings, where)
    assert "--cache-lru" in embedded_command(Settings(), where)


def test_previews_are_asked_for_where_comfyuis_page_is_shown(home):
    """Unless the operator chose a method."""
    settings = Settings(comfy_home=home, ui=True)
    where = folders(settings, "comfyui", SCRATCH)
    assert "--preview-method" in comfyui_command(settings, where, cpu=False, model_paths=None)

    chosen = replace(settings, comfy_args=("--preview-method", "taesd"))
    command = comfyui_command(chosen, where, cpu=False, model_paths=None)
    assert command.count("--preview-method") == 1


def test_cpu_and_model_paths_are_added_where_needed(home):
    """Both are told by the caller."""
    settings = Settings(comfy_home=home)
    where = folders(settings, "comfyui", SCRATCH)
    command = comfyui_command(settings, where, cpu=True, model_paths=Path("/c.yaml"))

    assert "--cpu" in command
    assert after(command, "--extra-model-paths-config") == "/c.yaml"


@pytest.mark.parametrize(
    ("args", "dropped"),
    [
        (("--cache-none",), "--cache-lru"),
        (("--cache-classic",), "--cache-lru"),
        (("--cache-lru", "7"), str(CACHED_NODES)),
        (("--cpu",), None),
        (("--cpu-vae",), "--cpu"),
    ],
)
def test_the_operators_arguments_win(home, args, dropped):
    """They come last, and flags of ours that clash with them are left out."""
    settings = Settings(comfy_home=home, comfy_args=args)
    where = folders(settings, "comfyui", SCRATCH)
    command = comfyui_command(settings, where, cpu=args == ("--cpu",), model_paths=None)

    assert command[-len(args) :] == list(args)
    assert command.count("--cpu") == (1 if args == ("--cpu",) else 0)
    if dropped:
        assert dropped not in command


def test_only_the_flag_itself_stands_for_cpu(home):
    """`--cpu-vae` leaves the GPU in use: it is no reason to leave `--cpu` out."""
    settings = Settings(comfy_home=home, comfy_args=("--cpu-vae",))
    where = folders(settings, "comfyui", SCRATCH)

    assert "--cpu" in comfyui_command(settings, where, cpu=True, model_paths=None)


def test_a_command_of_the_operators_is_taken_as_it_is():
    """Word for word, as the shell's quotes said."""
    settings = Settings.from_env({"CMD": "'/opt/my python/py' 'main file.py' --x='a b'"})
    where = folders(settings, "comfyui", SCRATCH)
    command = comfyui_command(settings, where, cpu=True, model_paths=Path("/c"))

    assert command == ["/opt/my python/py", "main file.py", "--x=a b"]


def test_the_environment_has_what_launch_commands_read():
    """comfyui-api's four variables, and a log without delay; the rest as inherited."""
    env = engine_environment(Settings(comfy_port=4242), {"PATH": "/bin", "WEB_ENABLE_AUTH": "x"})

    assert env == {
        "PATH": "/bin",
        "DIRECT_ADDRESS": "127.0.0.1",
        "COMFYUI_PORT_HOST": "4242",
        "WEB_ENABLE_AUTH": "false",
        "CF_QUICK_TUNNELS": "false",
        "PYTHONUNBUFFERED": "1",
    }
