"""What a manifest says under `requires`, against this machine. Warnings, nothing is enforced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.manifest.records import Requires

# A card of 24 GB tells of 22.2 GiB and more, a machine of 32 GB of some 31.
_TOLERANCE = 0.92


def shortfalls(requires: Requires | None, *, vram_mb: int | None, ram_mb: int | None) -> list[str]:
    """Name what this machine has too little of. Pure.

    Args:
        vram_mb: of the first GPU in MiB; 0 for no usable one, None where it is not known.
        ram_mb: in MiB; None where it is not known.
    """
    if requires is None:
        return []
    found = []
    if lacks(requires.vram_gb, vram_mb):
        has = "no usable GPU" if not vram_mb else f"a GPU with {_gb(vram_mb)} GB"
        meant = f" ({requires.gpu} does well)" if requires.gpu else ""
        wanted = f"{requires.vram_gb:g} GB of VRAM are wanted{meant}"
        found.append(f"{wanted}, and this machine has {has}")
    if lacks(requires.ram_gb, ram_mb):
        assert ram_mb is not None
        found.append(f"{requires.ram_gb:g} GB of RAM are wanted, and {_gb(ram_mb)} GB may be used")
    return found


def lacks(wanted_gb: float | None, has_mb: int | None) -> bool:
    """Tell whether an amount is clearly too little; what is not known is enough."""
    return wanted_gb is not None and has_mb is not None and has_mb < wanted_gb * 1024 * _TOLERANCE


def _gb(mib: int) -> str:
    return f"{mib / 1024:.1f}"
