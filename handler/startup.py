"""What lies between a worker's start and its first job, around the boot of its engine.

    begin ─► may_launch ─► (engine boots) ─► warm_up: node packs, models, warmup ─► ready

The engine calls `may_launch` and `warm_up` at every boot; the manifest is carried out once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from handler.engine.free_memory import usable_memory
from handler.manifest.faults import InstallFailed
from handler.manifest.loaded import check_loaded
from handler.manifest.needs import shortfalls
from handler.manifest.searched import unfound, unsearched
from handler.manifest.start import WARMUP_STEP
from handler.warmup import Warmup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.graph.object_info import ObjectInfo
    from handler.manifest.start import ManifestStart
    from handler.pipeline.stages import Parts


class Startup:
    """The gates that an engine passes before it is ready.

    Args:
        manifest: what is installed and fetched meanwhile; None for nothing.
    """

    def __init__(self, parts: Parts, manifest: ManifestStart | None = None) -> None:
        self._engine = parts.engine
        self._warmup = Warmup(parts)
        self._manifest = manifest
        self._warm = False
        self._held = False
        self._waited_s = 0.0
        self._notes: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Startup {'over' if self._warm else 'under way'} {self._manifest}>"

    def begin(self) -> None:
        """Begin with the manifest, and with fetching the warmup. Returns at once."""
        self._warmup.begin()
        if self._manifest is not None:
            self._manifest.begin()

    async def may_launch(self) -> None:
        """Wait for what must be there before the engine is launched.

        Raises:
            BootFailed: it cannot be had.
        """
        if self._manifest is not None:
            await self._manifest.before_engine()
            self._manifest.launched()

    async def warm_up(self) -> None:
        """Look at what booted, wait for its models, and run the warmup.

        Raises:
            BootFailed: a node pack of the manifest or a model is missing, or the warmup failed.
        """
        manifest = self._manifest
        if manifest is None or self._warm:
            if not self._held:
                await self._warmup.run()
            return
        manifest.answered()
        try:
            await self._look(manifest)
        except InstallFailed as fault:  # a model that failed meanwhile is told with it
            raise manifest.with_failures(fault) from fault
        begun = time.monotonic()
        await manifest.before_warmup()
        self._waited_s = time.monotonic() - begun
        if manifest.manifest.preload:
            folders = await self._engine.model_folders()
            manifest.warn(await asyncio.to_thread(unfound, manifest.manifest, folders))
        if self._warmup.wanted and not self._held:
            with manifest.timeline.step(WARMUP_STEP):
                await self._warmup.run()
        self._warm = True
        manifest.log_chart()

    def hold_warmup(self) -> None:
        """Boot without the warmup: there is no GPU yet."""
        self._held = True

    async def release_warmup(self) -> None:
        """Run the warmup that was held back, if it was.

        Raises:
            BootFailed: it failed.
        """
        if self._held:
            self._held = False
            await self._warmup.run()

    async def try_out(self, payload: dict[str, Any]) -> None:
        """Run a payload like the warmup: its outputs are discarded, and no job is counted.

        Raises:
            HandlerError: as it ended.
        """
        await self._warmup.try_out(payload)

    def note(self, name: str, told: Any) -> None:
        """Have the report tell something more."""
        self._notes[name] = told

    async def give_up(self) -> None:
        """Stop the manifest for a worker that will not be ready, and log how far it came."""
        if self._manifest is not None:
            await self._manifest.stop()
            self._manifest.log_chart()

    async def stop(self) -> None:
        """End what still runs of the manifest and of fetching the warmup."""
        await self._warmup.stop()
        if self._manifest is not None:
            await self._manifest.stop()

    def reason(self) -> str | None:
        """Say what the worker waits for besides the engine, for people; None for nothing."""
        return self._manifest.installing() if self._manifest is not None else None

    def report(self) -> dict[str, Any]:
        """Give the engine's boot report, with what the manifest came to."""
        told = {**self._engine.boot_report, **self._notes}
        if self._manifest is None:
            return told
        phases = dict(told.get("phases") or {})
        if "warmup_s" in phases and self._waited_s:
            # The engine counts all that is between its answer and its being ready.
            phases["warmup_s"] = round(max(0.0, phases["warmup_s"] - self._waited_s), 3)
            phases["models_s"] = round(self._waited_s, 3)
        return {**told, "phases": phases, "manifest": self._manifest.report()}

    async def _look(self, manifest: ManifestStart) -> None:
        told = self._engine.boot_report
        requires = manifest.manifest.requires
        manifest.shortfalls = shortfalls(
            requires, vram_mb=told.get("vram_mb"), ram_mb=usable_memory() >> 20
        )
        manifest.warn(manifest.shortfalls)
        models = (*manifest.manifest.models, *manifest.manifest.catalogue.values())
        if models:
            folders = await self._engine.model_folders()
            manifest.warn(unsearched(models, folders, manifest.known()))
        packs = manifest.manifest.custom_nodes
        if packs:
            manifest.warn(check_loaded(packs, told, _modules(await self._engine.object_info())))


def _modules(info: ObjectInfo) -> Iterator[str]:
    specs = (info.node(class_type) for class_type in info.classes)
    return (spec.python_module for spec in specs if spec is not None)
