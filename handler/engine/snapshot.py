"""The node pack that a ComfyUI gets which is to be frozen: it wakes it after the thaw. Light."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.settings import Settings

FOLDER = Path(__file__).with_name("snapshot_node")
"""A folder of node packs, ours alone; no `__init__` is in it: ComfyUI would take it for one."""


@dataclass(frozen=True, slots=True)
class SnapshotNode:
    """What ComfyUI is started with for it.

    Attributes:
        hides_gpu: until it is woken, no GPU is touched.
        token: proves that it is us who wake it.
    """

    hides_gpu: bool
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Give the engine's environment with what the node reads."""
        env = {**given, "COMFYFN_WAKE_TOKEN": self.token}
        if self.hides_gpu:
            # The second: torch then counts GPUs by the first alone, and CUDA is not asked.
            hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
            env |= {**hidden, "COMFYFN_HIDE_GPU": "true"}
        return env


def unfit(settings: Settings, kind: str) -> str | None:
    """Say why an engine cannot have the node; None where it can.

    Args:
        kind: as `Site.kind`.
    """
    if kind != "comfyui":
        return f"the engine is {kind}"
    if settings.comfy_command:
        return "CMD starts the engine"
    if "--disable-all-custom-nodes" in settings.comfy_args:
        return "--disable-all-custom-nodes leaves it out"
    return None


def differences(launched: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """Tell what an environment has become since a launch; None for what is gone."""
    ours = ("COMFYFN_WAKE_TOKEN", "COMFYFN_HIDE_GPU")
    names = (launched.keys() | now.keys()) - set(ours)
    return {name: now.get(name) for name in names if launched.get(name) != now.get(name)}
