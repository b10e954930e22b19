"""Settings in, the engine's command line and environment out. Pure but for looking at folders."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from handler.errors import BootFailed

if TYPE_CHECKING:
    from handler.settings import Settings

LOOPBACK = "127.0.0.1"
# ComfyUI's default cache keeps the last prompt's nodes only: two workflows in turn would reload
# their checkpoints every time. This many node results hold several workflows.
CACHED_NODES = 48

Kind = Literal["comfyui", "embedded", "attached"]


@dataclass(frozen=True, slots=True)
class Folders:
    """The engine's folders as the server sees them.

    Attributes:
        shared: False for a ComfyUI attached by URL, whose folders are out of reach.
        models: None where ComfyUI's own stays in use.
    """

    input: Path
    output: Path
    temp: Path
    models: Path | None
    shared: bool = True


def engine_kind(settings: Settings, *, embedded_allowed: bool) -> Kind:
    """Choose the engine.

    Args:
        embedded_allowed: whether the embedded one stands in where no ComfyUI is set.
            ENGINE=embedded has it anywhere: so an image, or an adapter, is tried without a GPU.

    Raises:
        BootFailed: no ComfyUI is found and the embedded engine may not stand in.
    """
    if settings.engine == "embedded":
        return "embedded"
    if settings.comfy_url:
        return "attached"
    if settings.comfy_command or _is_comfyui(settings.comfy_home):
        return "comfyui"
    if settings.engine == "auto" and embedded_allowed and settings.comfy_home is None:
        return "embedded"
    if settings.comfy_home:
        why = f"no ComfyUI is found: {settings.comfy_home} holds no main.py"
    elif settings.engine == "comfyui":
        why = "ENGINE=comfyui, but COMFY_HOME, CMD and COMFY_URL are all empty"
    else:
        why = "no ComfyUI is found: none is set"
    raise BootFailed(
        why,
        hint="set COMFY_HOME to its folder, CMD to a command that starts it, or COMFY_URL",
        blame="image",
    )


def _is_comfyui(home: Path | None) -> bool:
    return home is not None and (home / "main.py").is_file()


def interpreter(settings: Settings) -> Path:
    """Find the Python that ComfyUI runs on."""
    if settings.comfy_python is not None:
        return settings.comfy_python
    for name in (".venv", "venv"):
        candidate = (settings.comfy_home or Path()) / name / "bin" / "python"
        if settings.comfy_home is not None and candidate.is_file():
            return candidate
    return Path(sys.executable)


def no_torch(settings: Settings) -> str:
    """Say that the interpreter cannot run ComfyUI, and whose it is."""
    python = interpreter(settings)
    whose = "comfyfn's own Python" if python == Path(sys.executable) else "the Python"
    home = settings.comfy_home or "ComfyUI"
    return f"{home} would run with {whose} ({python}), which has no torch"


def folders(settings: Settings, kind: Kind, scratch: Path) -> Folders:
    """Name the engine's folders: those given, else below its home. Makes none."""
    if kind == "attached":
        base = scratch / "attached"
        return Folders(base / "input", base / "output", base / "temp", None, shared=False)
    models: Path | None
    if kind == "embedded":
        base = Path.home() / ".cache" / "comfyfn" / "embedded"
        models = settings.model_dir or base / "models"
    elif settings.comfy_home is not None:
        base = settings.comfy_home
        models = settings.model_dir or base / "models"
    else:
        base = Path.cwd()
        models = settings.model_dir  # CMD alone says nothing of where its models are
    return Folders(
        input=settings.input_dir or base / "input",
        output=settings.output_dir or base / "output",
        # ComfyUI wipes `<temp directory>/temp` at its start: never let two servers share one.
        temp=scratch / "temp"
        if kind == "embedded" or not settings.comfy_command
        else base / "temp",
        models=models,
    )


def embedded_command(
    settings: Settings, where: Folders, model_paths: Path | None = None
) -> list[str]:
    """Give the command of the embedded engine; `model_paths` as for `comfyui_command`."""
    command = [sys.executable, "-m", "local_server.engine", *_common(settings, where)]
    if where.models is not None:
        command += ["--models-directory", str(where.models)]
    if model_paths is not None:
        command += ["--extra-model-paths-config", str(model_paths)]
    if settings.test_faults:
        command.append("--test-faults")
    return command + list(settings.comfy_args)


def comfyui_command(
    settings: Settings, where: Folders, *, cpu: bool, model_paths: Path | None
) -> list[str]:
    """Give the command of ComfyUI: `CMD` as it is, else main.py with arguments for serving.

    Args:
        cpu: there is no usable GPU and the operator allows to go without.
        model_paths: a file for `--extra-model-paths-config`, see `roots.paths_config`.
    """
    if settings.comfy_command:
        return list(settings.comfy_command)
    home = settings.comfy_home or Path()
    ours = _common(settings, where)
    if settings.ui and not _given(settings.comfy_args, "--preview-method"):
        ours += ["--preview-method", "auto"]
    if cpu and "--cpu" not in settings.comfy_args:
        ours.append("--cpu")
    if model_paths is not None:
        ours += ["--extra-model-paths-config", str(model_paths)]
    return [str(interpreter(settings)), str(home / "main.py"), *ours, *settings.comfy_args]


def _common(settings: Settings, where: Folders) -> list[str]:
    arguments = ["--listen", LOOPBACK, "--port", str(settings.comfy_port), "--disable-auto-launch"]
    arguments += ["--input-directory", str(where.input), "--output-directory", str(where.output)]
    arguments += ["--temp-directory", str(where.temp.parent)]
    if not _given(settings.comfy_args, "--cache-"):  # two kinds of cache are refused
        arguments += ["--cache-lru", str(CACHED_NODES)]
    return arguments


def _given(arguments: tuple[str, ...], prefix: str) -> bool:
    return any(argument.startswith(prefix) for argument in arguments)


def engine_environment(settings: Settings, inherited: dict[str, str]) -> dict[str, str]:
    """Give the child's environment; comfyui-api hands the same four to its launch command."""
    return {
        **inherited,
        "DIRECT_ADDRESS": LOOPBACK,
        "COMFYUI_PORT_HOST": str(settings.comfy_port),
        "WEB_ENABLE_AUTH": "false",
        "CF_QUICK_TUNNELS": "false",
        "PYTHONUNBUFFERED": "1",
    }
