"""What a manifest needs, against what a deploy.yaml asks for. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_server.deploy.faults import DeployFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.manifest.records import Manifest, Requires

GATEWAY_S = 100
BOOT_S = 300
"""ComfyUI's boot, the nodes' packages and the warmup, on a slow machine."""

UNKNOWN_BYTES = 10_000_000_000
"""A model whose size nobody wrote down."""

FAILURES = 20
LONGEST_S = 3600
"""Salad's longest start: 1200 s of delay, and as many tries as may be."""

_LONGEST_PERIOD_S = 120
_FASTEST_MBPS = 1000
_BITS = 8 * 1.2  # with a reserve
_IN_NAME = re.compile(r"(\d+)\s?GB", re.IGNORECASE)

# Modal tells no sizes by its client: those of its guide, September 2026.
MODAL_VRAM_GB = {
    "T4": 16, "L4": 24, "A10": 24, "A10G": 24, "L40S": 48, "A100": 40, "A100-40GB": 40,
    "A100-80GB": 80, "RTX-PRO-6000": 96, "H100": 80, "H100!": 80, "H200": 141, "B200": 180,
    "B200+": 180,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Startup:
    """How long Salad may wait for a start.

    Attributes:
        delay_s, period_s: of a probe with `FAILURES` tries.
        why: the estimate, for people.
    """

    delay_s: int
    period_s: int
    why: str

    @property
    def total_s(self) -> int:
        """What an instance has."""
        return self.delay_s + self.period_s * FAILURES


def check_vram(requires: Requires | None, sizes: Mapping[str, float | None]) -> list[str]:
    """Refuse cards that are too small; give a hint for those of unknown size.

    Args:
        sizes: GB of memory by the card's name.

    Raises:
        DeployFailed: naming each card that is too small.
    """
    if requires is None or requires.vram_gb is None:
        return []
    need = requires.vram_gb
    small = [f"{name} has {size:g} GB" for name, size in sizes.items() if size and size < need]
    if small:
        well = f"; {requires.gpu} does well" if requires.gpu else ""
        raise DeployFailed(
            f"the manifest requires {need:g} GB of VRAM: {', '.join(small)}",
            hint=f"name larger cards under `gpu`, or another manifest{well}",
        )
    return [
        f"how much VRAM {name} has is not known; the manifest requires {need:g} GB"
        for name, size in sizes.items()
        if not size
    ]


def size_in_name(name: str) -> float | None:
    """Read GB from a card's name: `RTX 4090 (24 GB)`."""
    found = _IN_NAME.search(name)
    return float(found[1]) if found else None


def check_memory(requires: Requires | None, memory_gb: float) -> None:
    """Refuse too little RAM.

    Raises:
        DeployFailed: it is too little.
    """
    if requires is not None and requires.ram_gb and memory_gb < requires.ram_gb:
        raise DeployFailed(
            f"the manifest requires {requires.ram_gb:g} GB of RAM, and {memory_gb:g} are asked for",
            hint="raise `memory_gb`, or leave it out",
        )


def check_gateway(requires: Requires | None) -> list[str]:
    """Refuse what cannot answer within the gateway's limit.

    Raises:
        DeployFailed: the manifest's jobs take longer.
    """
    if requires is None:
        return []
    longest = requires.typical_s[1] if requires.typical_s else 0.0
    if requires.pattern == "queue" or longest > GATEWAY_S:
        takes = (
            f"a job takes {requires.typical_s[0]:g} to {longest:g} s"
            if requires.typical_s
            else "its jobs take minutes, as videos do"
        )
        raise DeployFailed(
            f"this manifest is for a queue: {takes}, and Salad's gateway ends every request after "
            f"{GATEWAY_S} s",
            hint="write `queue: {}` in place of `gateway` under `salad`",
        )
    if longest > GATEWAY_S * 0.6:
        return [
            f"a job takes up to {longest:g} s, near the gateway's {GATEWAY_S} s: a queue is safer"
        ]
    return []


def check_image(requires: Requires | None, image: str) -> list[str]:
    """Hint at an image without the CUDA toolkit where the manifest wants one with it."""
    if requires is not None and requires.image == "devel" and image.endswith("-runtime"):
        return [
            "the manifest wants an image with the whole CUDA toolkit: a tag that ends in -devel"
        ]
    return []


def model_bytes(manifest: Manifest | None) -> tuple[int, int]:
    """Give the bytes that are fetched before the warmup, and how many files were guessed."""
    models = manifest.before_start if manifest is not None else ()
    unknown = sum(model.size is None for model in models)
    return sum(model.size or UNKNOWN_BYTES for model in models), unknown


def disk_gb(manifest: Manifest | None, spare: int) -> int:
    """Give the disk that all models need and some to spare, in GB."""
    models = manifest.models if manifest is not None else ()
    return math.ceil(sum(model.size or UNKNOWN_BYTES for model in models) / 1e9 * 1.05) + spare


def startup(manifest: Manifest | None, mbps: float, given_s: int | None = None) -> Startup:
    """Lay out the startup probe: boot, downloads at the least speed, and a reserve.

    Where that is over Salad's hour, it is the hour, and `why` tells which speed that asks for.

    Raises:
        DeployFailed: no line is fast enough for an hour.
    """
    size, unknown = model_bytes(manifest)
    seconds = given_s or math.ceil(BOOT_S + size * _BITS / (mbps * 1e6))
    guessed = f", {unknown} of unknown size taken for 10 GB each" if unknown else ""
    why = f"{size / 1e9:.1f} GB at {mbps:g} MBit/s{guessed}, and {BOOT_S} s for boot and warmup"
    if given_s:
        why = "`startup_s`"
    if seconds > LONGEST_S:
        least = math.ceil(size * _BITS / (LONGEST_S - BOOT_S) / 1e6)
        if least > _FASTEST_MBPS:
            raise DeployFailed(
                f"a start would fetch {size / 1e9:.1f} GB, and Salad waits {LONGEST_S} s at most",
                hint="bake models into the image, or bring some of them `after_start`",
            )
        why += (
            f", which would be {seconds} s: Salad waits no longer, so nodes with less than {least} "
            f"MBit/s are given up; MIN_DOWNLOAD_MBPS={least} lets them go early"
        )
        seconds = LONGEST_S
    period = min(max(math.ceil(seconds / FAILURES), 3), _LONGEST_PERIOD_S)
    return Startup(max(0, seconds - period * FAILURES), period, why)
