"""Whether a node of Salad's is fit for the work: its GPU, its memory, its line. Pure."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from handler.health import HealthReport

GPU_FAULTS = 2
"""Engines in a row that the GPU failed: another process did not get it back."""


def unfit(report: HealthReport) -> str | None:
    """Say why no job will go well here, as far as the worker's state tells; None for fit."""
    error = report.boot.get("error") or {}
    details = error.get("details")
    if isinstance(details, dict) and details.get("cause") == "gpu_fault":
        return f"broken GPU: {error.get('error')}"
    if report.gpu_faults >= GPU_FAULTS:
        return f"broken GPU: it failed {report.gpu_faults} engines in a row: {report.gpu_fault}"
    shortfalls = (report.boot.get("manifest") or {}).get("shortfalls")
    return f"too small: {'; '.join(shortfalls)}" if shortfalls else None


class LineWatch:
    """Measures how fast the models of a manifest come.

    Args:
        least_mbps: in megabits per second; less is too slow. 0: any is fine.
        window_s: seconds that are looked back.
    """

    def __init__(self, least_mbps: float, window_s: float) -> None:
        self._least_mbps = least_mbps
        self._window_s = window_s
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def __repr__(self) -> str:
        return f"<LineWatch {self._least_mbps:g} Mbit/s over {self._window_s:g} s>"

    def see(self, models: Sequence[Mapping[str, Any]], now: float) -> str | None:
        """Take in how far the models are; say so when the line is too slow.

        Args:
            models: as `ModelStates.report` has them.
            now: monotonic seconds.

        Returns:
            None while nothing is fetched or too little is known, and where the rest is there
            within another window: a new node would begin with nothing.
        """
        going = [model for model in models if _on_its_way(model)]
        if not self._least_mbps or not going:
            self._seen.clear()
            return None
        come = sum(model["bytes"] for model in models)
        self._seen.append((now, come))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()
        begun, had = self._seen[0]
        if now - begun < self._window_s:
            return None
        bytes_per_s = (come - had) / (now - begun)
        mbps = bytes_per_s * 8 / 1e6
        if mbps >= self._least_mbps or _soon_there(models, bytes_per_s, self._window_s):
            return None
        return (
            f"slow downloads: {mbps:.1f} Mbit/s over {now - begun:.0f} s, and at least "
            f"{self._least_mbps:g} are wanted"
        )


def _on_its_way(model: Mapping[str, Any]) -> bool:
    """Whether its bytes come now; one that is being asked for, or checked, says nothing."""
    known = bool(model["bytes"] or model["total"])
    return model["state"] == "fetching" and known and model["bytes"] != model["total"]


def _soon_there(models: Sequence[Mapping[str, Any]], bytes_per_s: float, window_s: float) -> bool:
    left = 0
    for model in models:
        if model["state"] not in ("fetching", "waiting"):
            continue
        if model["total"] is None:
            return False
        left += model["total"] - model["bytes"]
    return left <= bytes_per_s * window_s
