"""Figures of running processes, out of /proc: memory, CPU, and who belongs to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.02
RESET_PEAK = "5"  # what /proc/PID/clear_refs takes to set VmHWM back to VmRSS; see proc(5)


def family(pid: int, without: str = "") -> list[int]:
    """A process and its descendants, parents first.

    Args:
        pid: the oldest.
        without: leaves out each process whose command line holds this text, with its children.
    """
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        with contextlib.suppress(OSError):
            if without and without in Path(f"/proc/{current}/cmdline").read_text():
                continue
            found.append(current)
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def _status_kb(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def rss_mb(pids: list[int]) -> float:
    """Resident memory of them all, in MiB."""
    return sum(_status_kb(pid, "VmRSS:") for pid in pids) / 1024


def cpu_s(pids: list[int]) -> float:
    """User and system time of them all so far, in seconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def kill(pid: int) -> None:
    """End a process and all its descendants at once."""
    for member in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # children whose parent is gone already


def using(folder: Path) -> list[int]:
    """Processes that were given a folder, or something in it, on their command line."""
    found, inside = [], f"{folder}/"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_text().split("\0")
            if any(f"{word}/".startswith(inside) for word in words):
                found.append(int(entry.name))
    return found


class Peak:
    """The most resident memory of a family of processes within a span of time.

    The kernel's own high-water marks are exact for processes that live through the span; the
    samples add processes that come and go.
    """

    def __init__(self, pid: int, without: str = "") -> None:
        self.pid, self.without = pid, without
        self.sampled_mb = 0.0

    def members(self) -> list[int]:
        return family(self.pid, self.without)

    @property
    def mb(self) -> float:
        marks = sum(_status_kb(pid, "VmHWM:") for pid in self.members()) / 1024
        return max(marks, self.sampled_mb)

    async def _sample(self) -> None:
        while True:
            self.sampled_mb = max(self.sampled_mb, rss_mb(self.members()))
            await asyncio.sleep(SAMPLE_S)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Peak]:
        """Forget earlier peaks and watch until the block ends."""
        for pid in self.members():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
        self.sampled_mb = 0.0
        task = asyncio.create_task(self._sample())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
