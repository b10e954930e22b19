"""The cold start as a graph: which step waits for which. Pure.

    apt ───────────────┐
    comfyui ─► packs ──┴─► pip ─► install.py, one after another ──► ComfyUI may start
    models before_start ──────────────────────────────────────────► warmup may start
                        └─► models after_start

Everything else runs beside. Models wait for nothing: they are most of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from handler.manifest.records import Manifest, ModelFile, NodePack

Gate = Literal["engine", "warmup", "none"]
Kind = Literal["apt", "comfyui", "pack", "pip", "script", "model"]

BEFORE, AFTER = "model ", "after start: "
_TOOLS_OF_PACKS = ("git", "git-lfs", "openssh-client", "ca-certificates")


@dataclass(frozen=True, slots=True)
class Task:
    """A step.

    Attributes:
        needs: steps that must have gone well before.
        follows: steps that must have ended before, well or not.
        gate: what must not begin before it: ComfyUI's start, the warmup, or nothing.
        optional: whether its failure is only a warning.
        subject: what it is about.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    gate: Gate = "engine"
    optional: bool = False
    subject: NodePack | ModelFile | None = None


def make_plan(manifest: Manifest) -> tuple[Task, ...]:
    """Lay out what a manifest asks for, each step behind those it waits for."""
    installs = _installs(manifest)
    before = _models(BEFORE, manifest.before_start, "warmup", ())
    names = tuple(task.name for task in before)
    after = _models(AFTER, manifest.after_start, "none", names)
    return (*installs, *before, *after)


def _installs(manifest: Manifest) -> list[Task]:
    tasks: list[Task] = []
    packs_need: tuple[str, ...] = ()
    if manifest.apt:
        tasks.append(Task("apt", "apt"))
        if any(name.split("=")[0] in _TOOLS_OF_PACKS for name in manifest.apt):
            packs_need += ("apt",)
    if manifest.comfyui is not None:
        # Packs lie inside of ComfyUI's folder, which may have to be made first.
        tasks.append(Task("comfyui", "comfyui", needs=packs_need))
        packs_need += ("comfyui",)
    packs = [
        Task(f"pack {pack.name}", "pack", packs_need, optional=pack.optional, subject=pack)
        for pack in manifest.custom_nodes
    ]
    tasks += packs
    if manifest.pip or packs or manifest.comfyui is not None:
        required = tuple(task.name for task in tasks if not task.optional)
        spare = tuple(task.name for task in tasks if task.optional)
        tasks.append(Task("pip", "pip", required, spare))
    last: tuple[str, ...] = ()
    for task in packs:  # one at a time: they may install packages
        name = f"install.py {task.name.removeprefix('pack ')}"
        needs = ("pip", task.name)
        tasks.append(Task(name, "script", needs, last, "engine", task.optional, task.subject))
        last = (name,)
    return tasks


def _models(
    prefix: str, models: tuple[ModelFile, ...], gate: Gate, follows: tuple[str, ...]
) -> list[Task]:
    tasks: list[Task] = []
    taken: set[str] = set()
    for model in models:
        name, number = f"{prefix}{model.label}", 1
        while name in taken:
            number += 1
            name = f"{prefix}{model.label} ({number})"
        taken.add(name)
        optional = gate == "none"
        tasks.append(Task(name, "model", (), follows, gate, optional, model))
    return tasks
