"""Tells which packages an interpreter has. Run by that interpreter: stdlib only, Python 3.9+.

Names and versions are read from the names of the `.dist-info` folders: opening the metadata of
300 packages would take a hundred times as long. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any


def environment() -> dict[str, str]:
    """Give the variables of environment markers (PEP 508)."""
    info = sys.implementation.version
    implementation = f"{info.major}.{info.minor}.{info.micro}"
    if info.releaselevel != "final":
        implementation += info.releaselevel[0] + str(info.serial)
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": implementation,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "platform_python_implementation": platform.python_implementation(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def packages() -> list[dict[str, Any]]:
    """Give name, version, path of its metadata and, where it came from one, address of each."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sys.path:
        try:
            entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            stem, _, kind = entry.name.rpartition(".")
            if kind not in ("dist-info", "egg-info") or stem.startswith("~"):
                continue
            known = _described(Path(entry.path), stem, kind)
            if known is not None:  # the first on the path is the one that is imported
                key = known["name"].lower().replace("_", "-").replace(".", "-")
                found.setdefault(key, known)
    return list(found.values())


def _described(path: Path, stem: str, kind: str) -> dict[str, Any] | None:
    name, _, version = stem.partition("-")
    if kind == "egg-info" or not version:
        from importlib.metadata import PathDistribution

        try:
            metadata = PathDistribution(path).metadata
        except Exception:  # noqa: BLE001 - a broken package is none
            return None
        name, version = metadata["Name"], metadata["Version"]
        if not name or not version:
            return None
    known: dict[str, Any] = {"name": name, "version": version, "path": str(path.absolute())}
    with contextlib.suppress(OSError, ValueError):
        known["direct_url"] = json.loads((path / "direct_url.json").read_text(encoding="utf-8"))
    return known


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"environment": environment(), "packages": packages()}))
