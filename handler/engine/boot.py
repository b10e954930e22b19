"""From settings to a started engine process. Light to import: it runs before everything else."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.engine import command as commands
from handler.engine.preflight import Preflight, model_folders, preflight
from handler.engine.process import EngineProcess, check_port_free
from handler.engine.readahead import ReadAhead, names_in
from handler.engine.roots import (
    DEFAULT_VOLUMES,
    ModelRoot,
    Registry,
    candidates,
    paths_config,
    reading_places,
    registry_of,
    survey,
)
from handler.engine.snapshot import FOLDER as NODE_FOLDER
from handler.errors import BootFailed
from handler.scratch import Scratch, make_scratch, sweep_stale
from handler.settings import Settings, inherited_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from handler.engine.command import Folders, Kind
    from handler.engine.snapshot import SnapshotNode

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
        volumes: roots of models that count where they exist.
        roots: the roots of models beside the engine's own folder, as they were found.
        registry: ComfyUI's own names of model folders; None before it was asked.
        preload: files of models to read ahead at every launch, beside the warmup's.
        reader: reads them; None before, and where READ_AHEAD is off.
        node: wakes an engine that is to be frozen; None for one that is not.
        environment: what the engine was started with last.
    """

    settings: Settings
    kind: Kind
    scratch: Path
    folders: Folders
    preflight: Preflight | None = None
    process_s: float | None = None
    command: list[str] | None = None
    owned: Scratch | None = None
    volumes: Sequence[Path] = DEFAULT_VOLUMES
    roots: list[ModelRoot] = field(default_factory=list)
    registry: Registry | None = None
    preload: list[str] = field(default_factory=list)
    reader: ReadAhead | None = None
    node: SnapshotNode | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def own_models(self) -> Path | None:
        """The folder of models that the engine searches without being told."""
        home = self.settings.comfy_home
        if self.kind == "comfyui":
            return None if home is None else home / "models"
        return None if self.settings.model_dir else self.folders.models

    def tried_roots(self) -> list[ModelRoot]:
        """Give every root of models in the order of the search, those that are not there too."""
        found = list(self.roots)
        if self.own_models is not None:
            found.insert(sum(root.own for root in found), ModelRoot(self.own_models))
        known = {root.path for root in found}
        absent = (path for path in self.volumes if path not in known)
        return found + [ModelRoot(path, problem="it is not there") for path in absent]

    def candidates(self) -> list[ModelRoot]:
        """List the roots of models beside that folder; looks into none."""
        model_dir = self.settings.model_dir
        return candidates(model_dir, self.own_models, self.settings.model_roots, self.volumes)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Begin to read files of models into memory, by names as graphs have them; never waits."""
        wanted = list(names)
        if not wanted or not self.settings.read_ahead or self.kind == "attached":
            return
        if self.reader is None:
            self.reader = ReadAhead(reading_places(self._readable(), self.own_models))
        self.reader.add(wanted)

    def _readable(self) -> list[ModelRoot]:
        """Leave out the roots that did not answer; CMD may search any."""
        dead = {root.path for root in self.roots if root.problem}
        dead = set() if self.settings.comfy_command else dead
        return [root for root in self.candidates() if root.path not in dead]

    def begin_read_ahead(self) -> None:
        """Begin with the warmup's files, where it is known by now, and those to preload."""
        self.read_ahead([*_warmup_names(self.settings), *self.preload])

    def end_read_ahead(self) -> dict[str, Any] | None:
        """Stop it, the warmup being over, and tell what was read; None where it was off."""
        reader, self.reader = self.reader, None
        if reader is None:
            return None
        reader.stop()
        return reader.report()

    def close(self) -> None:
        """Remove the scratch folder."""
        self.end_read_ahead()
        if self.owned is not None:
            self.owned.close()


def open_site(
    settings: Settings,
    *,
    embedded_allowed: bool,
    volumes: Sequence[Path] = DEFAULT_VOLUMES,
) -> Site:
    """Choose the engine and make its folders.

    Raises:
        BootFailed: there is no engine to start, or a folder cannot be made.
    """
    kind = commands.engine_kind(settings, embedded_allowed=embedded_allowed)
    base = settings.work_dir
    if base is not None:
        _make(base)
    sweep_stale(base)
    owned = make_scratch(base)
    where = commands.folders(settings, kind, owned.path)
    site = Site(settings, kind, owned.path, where, owned=owned, volumes=volumes)
    try:
        for folder in (site.folders.input, site.folders.output, site.folders.models):
            if folder is not None:
                _make(folder)
    except BootFailed:
        site.close()
        raise
    return site


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
        site.roots = survey(site.candidates(), _embedded_registry(site))
        command = commands.embedded_command(settings, site.folders, _model_paths(site))
        log.warning(
            "no ComfyUI is configured (COMFY_HOME, CMD or COMFY_URL): "
            "the embedded CPU engine runs the graphs, with core image nodes only"
        )
    else:
        _ask_interpreter(site)
        command = commands.comfyui_command(
            settings,
            site.folders,
            cpu=site.preflight is not None and not site.preflight.usable,
            model_paths=_model_paths(site),
        )
    if site.process_s is None:
        site.process_s = _own_age_s()
    env = commands.engine_environment(settings, inherited_environment())
    site.environment = env = site.node.environment(env) if site.node is not None else env
    site.command = command
    log.debug("starting the engine: %s", shlex.join(command))
    home = settings.comfy_home
    cwd = home if site.kind == "comfyui" and home is not None and home.is_dir() else None
    process = EngineProcess(command, env, cwd)
    site.begin_read_ahead()
    return process


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
            details={
                "torch": found.torch,
                "gpu": found.gpu,
                "vram_mb": found.vram_mb,
                "cause": "gpu_fault",
            },
        )
    return found


def _ask_interpreter(site: Site) -> None:
    """Check the GPU, and meanwhile find the roots of models, where there are any."""
    settings, found = site.settings, site.candidates()
    if settings.comfy_command:
        why = "CMD starts the engine: it is not told of this folder"
        site.roots = [replace(root, problem=why) for root in found]
        if settings.model_roots:
            log.warning("MODEL_ROOTS is not used: %s", why)
        found = []
    with ThreadPoolExecutor(1, "model-roots") as pool:
        surveyed = pool.submit(_survey, site, found) if found else None
        asleep = site.node is not None and site.node.hides_gpu
        site.preflight = None if asleep else _check_gpu(settings)  # looking is touching
        if surveyed is not None:
            site.roots = surveyed.result()


def _survey(site: Site, found: list[ModelRoot]) -> list[ModelRoot]:
    home = site.settings.comfy_home
    if site.registry is None and home is not None:
        told = model_folders(commands.interpreter(site.settings), home)
        site.registry = None if told is None else registry_of(told)
    return survey(found, site.registry or Registry())


def _embedded_registry(site: Site) -> Registry:
    usual, models = Registry(), site.folders.models
    return Registry(paths=tuple(models / name for name in usual.folders) if models else ())


def _model_paths(site: Site) -> Path | None:
    packs = NODE_FOLDER if site.node is not None else None
    text = None if site.settings.comfy_command else paths_config(site.roots, packs)
    if text is None:
        return None
    config = site.scratch / "extra_model_paths.yaml"
    config.write_text(text)
    return config


def _warmup_names(settings: Settings) -> list[str]:
    """Name the models of a warmup that is known by now; its faults are told when it is run."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if settings.warmup_json:
            return names_in(json.loads(settings.warmup_json))
        if settings.warmup_file is not None:
            return names_in(json.loads(settings.warmup_file.read_bytes()))
    return []
