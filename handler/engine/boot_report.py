"""What a boot tells of itself: its phases, its node packs, its devices. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from handler.engine.preflight import Preflight

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
    log: Iterable[str], stats: Mapping[str, Any], preflight: Preflight | None
) -> dict[str, Any]:
    """Give what is worth knowing: node packs by the engine's log, devices by `/system_stats`."""
    packs, failed = {}, []
    for line in log:
        found = IMPORT_TIME.match(line)
        if found:
            name = PurePosixPath(found[3]).name
            packs[name] = float(found[1])
            if found[2]:
                failed.append(name)
    return {
        "custom_nodes_s": packs,
        "custom_nodes_failed": failed,
        "devices": [device.get("name") for device in stats.get("devices") or []],
        "torch": preflight.torch if preflight else None,
    }
