"""Does a plan's steps for real: wires apt, git, registry, uv and downloads together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from handler.manifest import comfyui, requirements
from handler.manifest.faults import InstallFailed
from handler.manifest.nodes import NodeFolder, Placed, run_install_script, settle
from handler.manifest.requirements import Line, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from handler.manifest.apt import Apt
    from handler.manifest.git import Git
    from handler.manifest.packages import Packages
    from handler.manifest.places import Places
    from handler.manifest.plan import Task
    from handler.manifest.records import Manifest, ModelFile, NodePack
    from handler.manifest.registry import RegistryResolver


class Downloads(Protocol):
    """Brings a model's file to its place. A port: the transfer engine is behind it."""

    async def __call__(self, model: ModelFile, path: Path) -> str:
        """Bring it, or find that it is there; say in a few words which.

        Raises:
            HandlerError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an installation works with.

    Attributes:
        env: what commands inherit.
        base: the folder that relative paths in the manifest's `pip` are meant from.
        pins: exact versions of all packages, from a lock.
        comfyui_url: where ComfyUI is cloned from.
        allow_local: take repositories of this machine.
    """

    places: Places
    apt: Apt
    git: Git
    registry: RegistryResolver
    packages: Packages
    download: Downloads
    env: Mapping[str, str]
    base: Path
    pins: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    comfyui_url: str = comfyui.REPOSITORY
    allow_local: bool = False


class Installer:
    """Does one step at a time when it is called; `apply.ColdStart` decides when."""

    def __init__(self, manifest: Manifest, tools: Tools) -> None:
        self._manifest = manifest
        self._tools = tools
        self._placed: dict[str, Placed] = {}
        self._folder: NodeFolder | None = None

    async def __call__(self, task: Task) -> str:
        """Do a step, and say what it came to.

        Raises:
            HandlerError: it cannot be done.
        """
        if task.kind == "apt":
            names = await self._tools.apt.install(self._manifest.apt)
            return f"installed {', '.join(names)}" if names else "all there"
        if task.kind == "comfyui":
            return await self._comfyui()
        if task.kind == "pip":
            return await self._pip()
        if task.kind == "pack":
            return await self._pack(cast("NodePack", task.subject))
        if task.kind == "script":
            return await self._script(cast("NodePack", task.subject))
        model = cast("ModelFile", task.subject)
        return await self._tools.download(model, self._tools.places.of(model))

    @property
    def placed(self) -> tuple[Placed, ...]:
        """The packs that are in their folders."""
        return tuple(self._placed.values())

    async def _comfyui(self) -> str:
        assert self._manifest.comfyui is not None
        tools = self._tools
        state = await comfyui.ensure(
            self._manifest.comfyui,
            tools.places.comfy_home,
            tools.git,
            url=tools.comfyui_url,
            allow_local=tools.allow_local,
        )
        return f"{'now' if state.changed else 'is'} {state.version or state.commit}"

    async def _pack(self, pack: NodePack) -> str:
        if self._folder is None:
            places, tools = self._tools.places, self._tools
            self._folder = NodeFolder(places.custom_nodes, tools.git, tools.registry)
        placed = await self._folder.place(pack)
        self._placed[pack.name] = placed
        what = placed.version or (placed.commit or "")[:10]
        return f"{'installed' if placed.fresh else 'is'} {what}"

    async def _pip(self) -> str:
        wanted = await asyncio.to_thread(self._wanted)
        outcome = await self._tools.packages.install(wanted, self._tools.pins)
        told = f"installed for {len(wanted)}" if outcome.ran else "all there"
        if outcome.dropped:
            told += f"; without {', '.join(outcome.dropped)}"
        return told

    def _wanted(self) -> list[Wanted]:
        manifest, tools = self._manifest, self._tools
        wanted = []
        if tools.pinned:
            lines = tuple(Line(text, "lock") for text in tools.pinned)
            wanted.append(Wanted("lock", lines))
        if manifest.pip:
            try:
                lines = requirements.parse(manifest.pip, tools.base, "pip")
            except OSError as error:  # a file named by `-r` or `-c`
                why = f"{error.filename}: {error.strerror}"
                raise InstallFailed(f"pip of {manifest.source}: {why}") from error
            wanted.append(Wanted("pip", lines))
        if manifest.comfyui is not None:
            path = tools.places.comfy_home / "requirements.txt"
            if path.is_file():
                wanted.append(Wanted("ComfyUI", requirements.load(path)))
        for name, placed in sorted(self._placed.items()):
            if placed.requirements is not None:
                try:
                    lines = requirements.load(placed.requirements)
                except OSError as error:
                    raise InstallFailed(f"node pack {name}: {error}") from error
                wanted.append(Wanted(name, lines, placed.pack.optional))
        return wanted

    async def _script(self, pack: NodePack) -> str:
        placed = self._placed[pack.name]
        if not placed.fresh or not (placed.folder / "install.py").is_file():
            settle(placed)
            return "nothing to run"
        packages = self._tools.packages
        installed = await packages.installed()
        kept = packages.write_constraints(installed, self._tools.pins)
        home = str(self._tools.places.comfy_home)
        env = {
            **self._tools.env,
            # What a script installs by itself is held to the same.
            **await packages.script_environment(installed),
            # As ComfyUI-Manager tells the scripts it runs.
            "COMFYUI_PATH": home,
            "COMFYUI_FOLDERS_BASE_PATH": home,
        }
        ran = await run_install_script(placed, packages.python, env)
        if ran:
            await packages.check_kept(kept, f"install.py of {pack.name}")
        return "ran" if ran else "nothing to run"
