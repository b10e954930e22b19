"""How long graphs of a kind have run here, for what one sent now would take. Pure."""

from __future__ import annotations

import collections
import hashlib
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEPT = 16
"""Runs of a kind."""
MOST_KINDS = 200
FRESH_S = 3600.0
"""What is older counts no more: a graph that was refused for it is tried again then."""
LONGER = 1.25
"""A run that was cut short would have taken so many times as long, at least."""

# What makes runs of the same nodes longer or shorter, as ComfyUI and its packs call it.
AMOUNTS = frozenset(
    {
        *("steps", "width", "height", "batch_size", "length", "frames", "num_frames", "amount"),
        *("video_frames", "frame_count", "frame_load_cap", "seconds", "duration", "megapixels"),
        *("scale_by", "upscale_by", "start_at_step", "end_at_step", "denoise", "sampler_name"),
        *("ckpt_name", "unet_name", "model_name"),
    }
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job sent now would take, in seconds.

    Attributes:
        run_s: of its graph; None where none of its kind has run.
        before_s: until its turn.
    """

    run_s: float | None = None
    before_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it, as far as it is known."""
        return self.before_s + (self.run_s or 0.0)


def kind_of(graph: Any) -> str:
    """Name the kind of a graph: its classes and amounts; texts and seeds are not looked at.

    Args:
        graph: of a caller, whatever it is.
    """
    nodes = graph.values() if isinstance(graph, dict) else ()
    found = sorted(repr(tuple(_node(node))) for node in nodes if isinstance(node, dict))
    return hashlib.blake2b("\n".join(found).encode(errors="replace"), digest_size=8).hexdigest()


def _node(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "", str(node.get("class_type"))
    inputs = node.get("inputs")
    if isinstance(inputs, dict):
        for name in sorted(AMOUNTS & inputs.keys()):
            if isinstance(inputs[name], int | float | str):
                yield name, str(inputs[name])[:200]


class RunTimes:
    """The last runs, by kind. Times are in seconds, `now` by any clock that goes on."""

    def __init__(self) -> None:
        self._whole: dict[str, collections.deque[tuple[float, float]]] = {}
        self._cut: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<RunTimes of {len(self._whole)} kinds>"

    def ran(self, kind: str, seconds: float, now: float) -> None:
        """Take in a run that ended by itself."""
        runs = self._whole.pop(kind, None) or collections.deque(maxlen=KEPT)
        runs.append((now, seconds))
        self._whole[kind] = runs  # the newest kind is the last one
        self._cut.pop(kind, None)
        _shrink(self._whole)

    def cut_short(self, kind: str, seconds: float, now: float) -> None:
        """Take in a run that somebody ended: it says the least that one takes."""
        self._cut[kind] = (now, max(seconds * LONGER, self._cut.pop(kind, (0.0, 0.0))[1]))
        _shrink(self._cut)

    def of(self, kind: str, now: float) -> float | None:
        """Give what a run of a kind takes; None where it is not known."""
        fresh = [seconds for at, seconds in self._whole.get(kind, ()) if now - at < FRESH_S]
        if fresh:
            return statistics.median(fresh)
        at, seconds = self._cut.get(kind, (0.0, 0.0))
        return seconds if seconds and now - at < FRESH_S else None

    def typical(self, now: float) -> float | None:
        """Give what a run of any kind takes; None where none has run."""
        known = [self.of(kind, now) for kind in self._whole]
        return statistics.median([one for one in known if one is not None] or [0.0]) or None


def _shrink(kinds: dict[str, Any]) -> None:
    if len(kinds) > MOST_KINDS:
        del kinds[next(iter(kinds))]
