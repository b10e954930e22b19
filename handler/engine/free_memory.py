"""How much memory the page cache may still take, on a machine or in a container."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

KIB, GIB = 1 << 10, 1 << 30
LEAST_RESERVE = GIB
CGROUPS = Path("/sys/fs/cgroup")
# Version 2, then version 1: limit, use, and the names of the page cache in memory.stat.
FILES = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = CGROUPS) -> int | None:
    """Give the bytes that can be had without swapping, the page cache's own counted as free.

    The container's limit counts where it is less than the machine's. None where neither is known.
    """
    known = [_of_machine(meminfo), *(_of_cgroup(cgroups, *names) for names in FILES)]
    return min((value for value in known if value is not None), default=None)


def usable_memory(cgroups: Path = CGROUPS) -> int:
    """Give the bytes that this process may use: the machine's, or its container's limit."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit, *_ in FILES:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is "max"
            sizes.append(int((cgroups / limit).read_text()))
    return min(sizes)


def reserve(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Give the bytes that are left to the engine's own needs: a tenth, and at least 1 GiB."""
    return max(LEAST_RESERVE, _fields(meminfo).get("MemTotal", 0) * KIB // 10)


def _of_machine(meminfo: Path) -> int | None:
    available = _fields(meminfo).get("MemAvailable")
    return None if available is None else available * KIB


def _of_cgroup(base: Path, limit: str, used: str, stat: str, cached: tuple[str, ...]) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is "max"
        most = int((base / limit).read_text())
        fields = _fields(base / stat)
        taken = int((base / used).read_text()) - sum(fields.get(name, 0) for name in cached)
        return max(0, most - max(0, taken))
    return None


def _fields(path: Path) -> dict[str, int]:
    found = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, value, *_ = line.replace(":", " ").split()
            found[name] = int(value)
    return found
