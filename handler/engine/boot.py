"""From settings to a started engine process. Light to import: it runs before everything else."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine import command as commands
from handler.engine.preflight import Preflight, preflight
from handler.engine.process import EngineProcess, check_port_free
from handler.errors import BootFailed
from handler.scratch import Scratch, make_scratch, sweep_stale
from handler.settings import Settings, SettingsError, inherited_environment

if TYPE_CHECKING:
    from handler.engine.command import Folders, Kind

log = logging.getLogger("comfyfn.engine")


@dataclass(slots=True)
class Site:
    """Where the engine lives: its kind, its folders and our scratch. Made once per server.

    Attributes:
        scratch: ours alone, removed by `close`.
        preflight: what the GPU check found; None where none was made.
        process_s: seconds from our own process's start to the engine's first launch.
        command: what the engine was started with last; None before.
        owned: the scratch folder with its lock.
    """

    settings: Settings
    kind: Kind
    scratch: Path
    folders: Folders
    preflight: Preflight | None = None
    process_s: float | None = None
    command: list[str] | None = None
    owned: Scratch | None = None

    def close(self) -> None:
        """Remove the scratch folder."""
        if self.owned is not None:
            self.owned.close()


def open_site(settings: Settings, *, embedded_allowed: bool) -> Site:
    """Choose the engine and make its folders.

    Raises:
        BootFailed: there is no engine to start, or a folder cannot be made.
        SettingsError: a manifest is named, and nothing here would apply it.
    """
    if fault := unapplied_manifest(settings):
        raise SettingsError(fault)
    kind = commands.engine_kind(settings, embedded_allowed=embedded_allowed)
    base = settings.work_dir
    if base is not None:
        _make(base)
    sweep_stale(base)
    owned = make_scratch(base)
    where = commands.folders(settings, kind, owned.path)
    site = Site(settings, kind, owned.path, where, owned=owned)
    try:
        for folder in (site.folders.input, site.folders.output, site.folders.models):
            if folder is not None:
                _make(folder)
    except BootFailed:
        site.close()
        raise
    return site


def unapplied_manifest(settings: Settings) -> str | None:
    """Say that a manifest is set: a start that ignored it would run without what it names."""
    name = "MANIFEST_JSON" if settings.manifest_json else "MANIFEST"
    if not settings.manifest_json and settings.manifest is None:
        return None
    return (
        f"{name} is not applied at the start yet: run `comfyfn manifest apply` first, and unset it"
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BootFailed(
            f"the folder {folder} cannot be made: {error.strerror}",
            hint="check WORK_DIR, INPUT_DIR, OUTPUT_DIR, MODEL_DIR and COMFY_HOME",
            blame="image",
        ) from error


def launch(site: Site) -> EngineProcess:
    """Start the engine's process. Blocks for the GPU check, some 50 ms.

    Raises:
        BootFailed: the GPU cannot be used, the port is taken, or the command cannot be run.
    """
    settings = site.settings
    check_port_free(settings.comfy_port)
    if site.kind == "embedded":
        command = commands.embedded_command(settings, site.folders)
        log.warning(
            "no ComfyUI is configured (COMFY_HOME, CMD or COMFY_URL): "
            "the embedded CPU engine runs the graphs, with core image nodes only"
        )
    else:
        site.preflight = _check_gpu(settings)
        command = commands.comfyui_command(
            settings,
            site.folders,
            cpu=site.preflight is not None and not site.preflight.usable,
            model_paths=_model_paths(site),
        )
    if site.process_s is None:
        site.process_s = _own_age_s()
    env = commands.engine_environment(settings, inherited_environment())
    site.command = command
    log.debug("starting the engine: %s", shlex.join(command))
    home = settings.comfy_home
    cwd = home if site.kind == "comfyui" and home is not None and home.is_dir() else None
    return EngineProcess(command, env, cwd)


def _own_age_s() -> float | None:
    """Tell how long this process has run, by the kernel's clock; None where it has no /proc."""
    try:
        ticks = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
        up = Path("/proc/uptime").read_text().split()[0]
    except OSError:
        return None
    return round(float(up) - int(ticks) / os.sysconf("SC_CLK_TCK"), 3)


def _check_gpu(settings: Settings) -> Preflight | None:
    if settings.allow_cpu and settings.comfy_command:
        return None  # the command decides, and nothing would be refused
    if settings.comfy_command and settings.comfy_python is None and settings.comfy_home is None:
        return None  # no interpreter is known to ask
    begun = time.monotonic()
    found = preflight(commands.interpreter(settings))
    log.info("gpu check: %s (%.0f ms)", found.words, (time.monotonic() - begun) * 1000)
    # An interpreter that we only guessed says nothing of CMD's when it has no torch.
    guessed = bool(settings.comfy_command) and settings.comfy_python is None
    if guessed and found.torch is None:
        return None
    if found.torch is None:
        raise BootFailed(
            commands.no_torch(settings), hint="set COMFY_PYTHON to ComfyUI's Python", blame="image"
        )
    if not found.usable and not settings.allow_cpu:
        raise BootFailed(
            f"the GPU cannot be used: {found.reason}",
            hint="move to a host whose GPU and driver fit, or set ALLOW_CPU=true to go without",
            details={"torch": found.torch, "gpu": found.gpu, "vram_mb": found.vram_mb},
        )
    return found


def _model_paths(site: Site) -> Path | None:
    settings, models = site.settings, site.folders.models
    if settings.comfy_command or models is None or settings.comfy_home is None:
        return None
    if models == settings.comfy_home / "models":
        return None
    for folder in commands.MODEL_FOLDERS:
        with contextlib.suppress(OSError):  # a read-only volume has what it has
            (models / folder).mkdir(exist_ok=True)
    config = site.scratch / "extra_model_paths.yaml"
    config.write_text(commands.model_paths_config(models))
    return config
