"""What an engine computes on, and the memory that it takes: by `/system_stats` and `/proc`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

PROC = Path("/proc")
KIB = 1 << 10
# Figures are asked for every few seconds; an engine deep in a node answers the next time.
ASK_LIMIT_S = 2.0
# Between looks after runs: a small graph takes milliseconds, and an answer of the engine's as many.
LOOK_EVERY_S = 2.0
# `cuda:0 NVIDIA H200 : cudaMallocAsync`: index, name, allocator.
DEVICE_NAME = re.compile(r"^(?:[a-z]+:\d+ )?(.*?)(?: : [A-Za-z]+)?$")


@dataclass(frozen=True, slots=True)
class Device:
    """What an engine computes on.

    Attributes:
        name: the maker's, `NVIDIA H200`.
        vram_total: bytes.
    """

    name: str
    vram_total: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of memory that an engine takes; None for what is not known.

    Attributes:
        rss, rss_peak: of its process in the machine's memory, now and at most.
        vram_used: of its device, everybody's together.
        vram_peak: the most that was seen.
    """

    rss: int | None = None
    rss_peak: int | None = None
    vram_used: int | None = None
    vram_total: int | None = None
    vram_peak: int | None = None


def device_of(stats: Mapping[str, Any]) -> Device | None:
    """Read the first device of `/system_stats`; None for the CPU, or where none is told."""
    told = _first(stats)
    if told is None:
        return None
    found = DEVICE_NAME.match(str(told.get("name") or ""))
    name = (found and found[1]) or str(told.get("type"))
    return Device(name, _bytes(told.get("vram_total")) or 0)


def process_memory(pid: int | None, proc: Path = PROC) -> tuple[int | None, int | None]:
    """Give the bytes that a process has in memory, now and at most.

    Args:
        pid: None for our own.

    Returns:
        (now, peak): None for what the system does not tell.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = proc / ("self" if pid is None else str(pid)) / "status"
        for line in status.read_text(errors="replace").splitlines():
            if line.startswith(("VmRSS:", "VmHWM:")):
                found[line[:5]] = int(line.split()[1]) * KIB
    now = found.get("VmRSS")
    return now, found.get("VmHWM", now)


class UsageMeter:
    """Asks an engine for its memory, and keeps the highest of what it told.

    Args:
        stats: asks for `/system_stats`.
        pid: gives the engine's process; None where it is not ours.
    """

    def __init__(
        self, stats: Callable[[], Awaitable[dict[str, Any]]], pid: Callable[[], int | None]
    ) -> None:
        self.device: Device | None = None
        self._stats = stats
        self._pid = pid
        self._rss_peak = 0
        self._vram_peak = 0
        self._looked_at = float("-inf")
        self._look: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<UsageMeter {self.device}>"

    def booted(self, stats: Mapping[str, Any]) -> None:
        """Take what the engine told at its boot."""
        self.device = device_of(stats)
        self._used(stats)

    def ran(self) -> None:
        """Look soon how much the run just ended took: the engine gives it back a little later.

        Nothing of that is on a run's way, and an engine on the CPU is not asked.
        """
        now = time.monotonic()
        if self.device is not None and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look = asyncio.ensure_future(self._ask())

    async def usage(self) -> Usage:
        """Tell the memory that is taken now; None for what cannot be had soon."""
        rss = peak = None
        pid = self._pid()
        if pid is not None:
            rss, peak = process_memory(pid)
            # The kernel's own peak is of this process; the one before it may have had more.
            self._rss_peak = max(self._rss_peak, peak or 0)
        device = self.device
        used = await self._ask() if device is not None else None
        return Usage(
            rss=rss,
            rss_peak=self._rss_peak or None,
            vram_used=used,
            vram_total=device.vram_total if device is not None else None,
            vram_peak=self._vram_peak or None,
        )

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    async def _ask(self) -> int | None:
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                return self._used(await self._stats())
        except (HandlerError, TimeoutError):
            return None

    def _used(self, stats: Mapping[str, Any]) -> int | None:
        told = _first(stats) or {}
        total, free = _bytes(told.get("vram_total")), _bytes(told.get("vram_free"))
        if total is None or free is None:
            return None
        used = max(0, total - free)
        self._vram_peak = max(self._vram_peak, used)
        return used


def _first(stats: Mapping[str, Any]) -> Mapping[str, Any] | None:
    devices = stats.get("devices")
    told = devices[0] if isinstance(devices, list) and devices else None
    if not isinstance(told, dict) or told.get("type") in {None, "cpu"}:
        return None
    return told


def _bytes(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 0 else None
