"""A manifest carried out while a worker starts, beside the boot of its engine.

Light to import: whether the engine may be launched at once is asked before all else.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from handler.manifest.apply import ColdStart
from handler.manifest.faults import InstallFailed, ManifestInvalid
from handler.manifest.model_states import ModelStates
from handler.manifest.places import Places
from handler.manifest.plan import make_plan
from handler.manifest.schema import read_manifest
from handler.manifest.searched import Known, is_own, known_of
from handler.manifest.timeline import Timeline
from handler.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from handler.engine.boot import Site
    from handler.manifest.apply import Runner
    from handler.manifest.records import Manifest

log = logging.getLogger("comfyfn.manifest")

ENGINE_STEP = "engine boot"
WARMUP_STEP = "warmup"


def manifest_of(site: Site) -> Manifest | None:
    """Read the manifest that is set, and see whether it can be carried out here.

    The site is told what is to be read ahead.

    Raises:
        SettingsError: telling every fault, with its line.
    """
    settings = site.settings
    try:
        manifest = read_manifest(
            settings.manifest,
            settings.manifest_json,
            allow_local_git=settings.manifest_local_git,
        )
        if manifest is not None and settings.manifest_locked:
            manifest = _locked(manifest, site)
        if manifest is not None:
            _check(manifest, site)
            site.preload = list(manifest.preload)
            _make_folders(manifest, site)
    except (ManifestInvalid, InstallFailed) as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise SettingsError(f"{error.message}{hint}") from error
    return manifest


def _locked(manifest: Manifest, site: Site) -> Manifest:
    """Pin everything as the lock has it; loaded on request only."""
    from handler.manifest.lock import freeze_manifest, lock_path, read_lock

    places = places_of(site)
    if places is None:
        raise InstallFailed("MANIFEST_LOCKED is set, and the engine's folders are out of reach")
    return freeze_manifest(manifest, read_lock(lock_path(manifest)), places)


def places_of(site: Site) -> Places | None:
    """Give where the manifest's files go; None where the engine's folders are out of reach."""
    settings, models = site.settings, site.folders.models
    home = settings.comfy_home if site.kind == "comfyui" else None
    if models is None:
        models = home / "models" if home is not None else None
    if models is None or site.kind == "attached":
        return None
    # A volume may hold its folders of models as `root/checkpoints` or as `root/models/checkpoints`.
    roots = (path for root in site.candidates() for path in (root.path, root.path / "models"))
    return Places(models=models, home=home, roots=tuple(roots))


def _check(manifest: Manifest, site: Site) -> None:
    if not make_plan(manifest):
        return
    if site.kind == "attached":
        raise InstallFailed(
            f"{manifest.source} installs into ComfyUI, and COMFY_URL names one that runs already",
            hint="run `comfyfn manifest apply` where that ComfyUI is, or set COMFY_HOME instead",
        )
    places = places_of(site)
    if places is None and manifest.models:
        raise InstallFailed(
            f"{manifest.source} brings models, and nothing says where they go",
            hint="set MODEL_DIR or COMFY_HOME",
        )
    if (manifest.custom_nodes or manifest.comfyui) and (places is None or places.home is None):
        raise InstallFailed(
            f"{manifest.source} installs into ComfyUI, and there is none in COMFY_HOME",
            hint="set COMFY_HOME to ComfyUI's folder",
        )
    if places is not None:
        places.check(manifest)


def _make_folders(manifest: Manifest, site: Site) -> None:
    """Make the folders of the models: the engine is told of those that are there.

    One that nobody can know is not made: the engine would be told of a typo, and take it for good.
    """
    places = places_of(site)
    if places is None:
        return
    known = known_of(site, manifest)
    for model in manifest.models:
        folder = places.of(model).parent
        if not folder.is_relative_to(places.models) or folder == places.models:
            continue
        name = folder.relative_to(places.models).as_posix()
        if known.packs or is_own(name, known.registry):
            with contextlib.suppress(OSError):  # whoever fetches it tells why not
                folder.mkdir(parents=True, exist_ok=True)


def holds_launch(manifest: Manifest | None) -> bool:
    """Tell whether anything must be installed, or seen to be, before the engine is launched."""
    return manifest is not None and any(task.gate == "engine" for task in make_plan(manifest))


class ManifestStart:
    """A manifest on its way into a starting worker. It is carried out once, whatever restarts.

    Attributes:
        shortfalls: what this machine has too little of, by what the manifest requires.

    Args:
        run: does a step.
        states: told of the models' bytes by whoever fetches them.
        known: tells what is known of the engine's folders, once it was launched.
    """

    def __init__(
        self,
        manifest: Manifest,
        run: Runner,
        states: ModelStates | None = None,
        known: Callable[[], Known] = Known,
    ) -> None:
        self.manifest = manifest
        self.known = known
        self.timeline = Timeline()
        self.warnings: list[str] = []
        self.shortfalls: list[str] = []
        self._states = states or ModelStates()
        self._plan = make_plan(manifest)
        self._steps = ColdStart(self._plan, run, self.timeline)
        self._engine_step: int | None = None

    def __repr__(self) -> str:
        return f"<ManifestStart {self.manifest.source} {self._steps}>"

    def begin(self) -> None:
        """Start what waits for nothing. Returns at once."""
        if not holds_launch(self.manifest):  # then it was launched before all else
            self.launched()
        self._steps.begin()

    def launched(self) -> None:
        """Note that the engine boots from now on."""
        if self._engine_step is None:
            self._engine_step = self.timeline.begin(ENGINE_STEP)

    def answered(self) -> None:
        """Note that the engine has booted."""
        self._end_engine_step("done")

    async def before_engine(self) -> None:
        """Wait for what must be there before the engine is launched.

        Raises:
            InstallFailed: naming every step that failed.
        """
        with _final():
            await self._steps.before_engine()

    async def before_warmup(self) -> None:
        """Wait for what must be there before the warmup.

        Raises:
            InstallFailed: naming every step that failed.
        """
        with _final():
            await self._steps.before_warmup()

    def with_failures(self, fault: InstallFailed) -> InstallFailed:
        """Give a fault that stops the worker, with those of the steps that failed by now."""
        return self._steps.joined(ENGINE_STEP, fault)

    async def finished(self) -> None:
        """Wait for everything, after_start included."""
        await self._steps.finished()

    async def stop(self) -> None:
        """End what still runs, children and downloads; what is on disk stays for the next start."""
        await self._steps.stop()
        self._end_engine_step("cancelled")

    def installing(self) -> str | None:
        """Say what is being done that the worker waits for; None for nothing."""
        tasks = [task for task in self._plan if task.gate != "none"]
        told = self._states.words(tasks, self.timeline.records, self.timeline.now())
        return f"installing: {told}" if told is not None else None

    def warn(self, texts: Iterable[str]) -> None:
        """Note what is not as the manifest wants it, and does not stop the worker."""
        for text in texts:
            if text in self.warnings:  # another try of the engine's boot
                continue
            log.warning("%s: %s", self.manifest.source, text)
            self.warnings.append(text)

    def report(self) -> dict[str, Any]:
        """Give what happened so far.

        Returns:
            `source`; `steps`: name, start, end (seconds), outcome and note of each; `models`, as
            `ModelStates.report`; `warnings`; `shortfalls`, those of them that tell what the machine
            has too little of.
        """
        records = self.timeline.records
        optional = [task for task in self._plan if task.optional and task.gate != "none"]
        faults: Mapping[str, Any] = self._steps.faults
        spared = [faults[task.name].message for task in optional if task.name in faults]
        return {
            "source": self.manifest.source,
            "steps": [
                {
                    "name": record.name,
                    "start": round(record.start, 3),
                    "end": None if record.end is None else round(record.end, 3),
                    "outcome": record.outcome,
                    "note": record.note,
                }
                for record in records
            ],
            "models": self._states.report(self._plan, records),
            "warnings": [*self.warnings, *spared],
            "shortfalls": list(self.shortfalls),
        }

    def log_chart(self) -> None:
        """Draw what happened when into the log."""
        for line in self.timeline.chart().splitlines():
            log.info("%s", line)

    def _end_engine_step(self, outcome: Any) -> None:
        number = self._engine_step
        if number is not None and self.timeline.records[number].end is None:
            self.timeline.end(number, outcome)


@contextlib.contextmanager
def _final() -> Iterator[None]:
    """Have no other boot tried for a step that failed: each has tried again by itself."""
    try:
        yield
    except InstallFailed as error:
        error.retryable = False
        raise
