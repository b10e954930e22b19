"""What a boot tells of itself: its phases, its node packs, its devices. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.engine.import_faults import failed_imports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from handler.engine.preflight import Preflight

TRACEBACK_LINES = 40
# How ComfyUI's log tells of each node pack.
IMPORT_TIME = re.compile(r"^\s*([\d.]+) seconds( \(IMPORT FAILED\))?:\s+(\S.*)$")


def phases(
    process_s: float, *, begun: float, answering: float, learnt: float, ended: float
) -> dict[str, float]:
    """Give the seconds of each part of a boot, and of all.

    Args:
        process_s: from our own start to the engine's launch; 0 where this was no first boot.
        begun, answering, learnt, ended: monotonic seconds.
    """
    seconds = {
        "process_s": process_s,
        "engine_answering_s": answering - begun,
        "node_info_s": learnt - answering,
        "warmup_s": ended - learnt,
        "total_s": ended - begun + process_s,
    }
    return {name: round(value, 3) for name, value in seconds.items()}


def findings(
    log: Sequence[str], stats: Mapping[str, Any], preflight: Preflight | None
) -> dict[str, Any]:
    """Give what is worth knowing: node packs by the engine's log, devices by `/system_stats`.

    Returns:
        `custom_nodes_s`: pack -> seconds of its import; `custom_nodes_failed`: `name`, `error`,
        `hint` and `traceback` of each that the engine goes without; `devices`: their names;
        `torch`; `vram_mb`: 0 without a usable GPU, None where none was asked for.
    """
    packs = {
        PurePosixPath(found[3]).name: float(found[1])
        for line in log
        if (found := IMPORT_TIME.match(line))
    }
    failed = [
        {
            "name": fault.name,
            "error": fault.error,
            "hint": fault.hint,
            "traceback": list(fault.traceback[-TRACEBACK_LINES:]),
        }
        for fault in failed_imports(log)
    ]
    return {
        "custom_nodes_s": packs,
        "custom_nodes_failed": failed,
        "devices": [device.get("name") for device in stats.get("devices") or []],
        "torch": preflight.torch if preflight else None,
        "vram_mb": _vram_mb(preflight),
    }


def _vram_mb(preflight: Preflight | None) -> int | None:
    if preflight is None:
        return None
    return preflight.vram_mb if preflight.usable else 0
