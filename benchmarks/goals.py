"""The product's goals, and which of a run's figures meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from files_served import FREE, SLOW
from report import Table, median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from report import Figures

FLOOR = "direct"
OVERHEAD_MS = {"64": 5.0, "1024": 25.0, "2048": 80.0}
OVERHEAD_FACTOR = 1.3
IDLE_ENGINE_PER_S = 300.0
BUSY_ENGINE_SHARE = 0.95
COLD_BEYOND_BOOT_S = 0.3
# Ready before the engine listens is not ready; the kernel tells starts to 10 ms only.
COLD_CLOCK_S = 0.05
RSS_MB = 150.0
# Flat: what the server holds at the end over what it held after a quarter of the requests.
RSS_GROWTH_MB = 10.0
# What a worker has in STATE_DIR without any job: its name, its sign of life.
STATE_FILES = 4
BIG_GROWTH_MB = 64.0
# Three files of 1 GiB: seconds of wall clock and of CPU; None for none set.
DOWNLOAD_S = {FREE: (6.0, 4.0), SLOW: (20.0, None)}
# What an adapter adds to its platform's SDK before the engine is launched.
ADAPTER_MS = 150.0
# The longer of boot and download, not their sum: what may be lost between them.
OVERLAP_S = 1.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal: what was measured, what it may be, and whether it is met."""

    goal: str
    measured: str
    limit: str
    met: bool


def judge(figures: dict[str, Figures], product: str) -> list[Verdict]:
    """A verdict for each goal that this run is about; what failed to be measured is not met.

    Args:
        figures: by measure, then by target.
        product: the target that is held to the goals.
    """
    of_product = {name: found.get(product, {}) for name, found in figures.items()}
    verdicts: list[Verdict | None] = []
    for name, goals in (("latency", _latency), ("load", _load)):
        if name in figures:
            verdicts += goals(of_product[name], figures[name].get(FLOOR, {}))
    for name, alone in (
        ("cold", _cold),
        ("leak", _leak),
        ("webhooks", _webhooks),
        ("big", _big),
        ("download", _download),
    ):
        if name in figures:
            verdicts += alone(of_product[name])
    verdicts += [_adapter(name, found) for name, found in figures.get("adapters", {}).items()]
    verdicts += [_without_errors(name, found) for name, found in of_product.items() if found]
    return [each for each in verdicts if each is not None]


def _without_errors(measure: str, found: Figures) -> Verdict | None:
    """Times and memory of a server that fails say nothing; None for a measure without requests."""
    cells = [found, *(cell for cell in found.values() if isinstance(cell, dict))]
    counts = [sum(cell["errors"].values()) for cell in cells if "errors" in cell]
    if not counts:
        return None
    return Verdict(f"{measure}: requests that failed", str(sum(counts)), "0", sum(counts) == 0)


def _not_measured(goal: str, limit: str) -> Verdict:
    return Verdict(goal, "not measured", limit, met=False)


def _latency(found: Figures, floor: Figures) -> Iterator[Verdict]:
    for pixels, limit_ms in OVERHEAD_MS.items():
        ours = found.get(pixels, {}).get("overhead_ms")
        least = floor.get(pixels, {}).get("overhead_ms")
        goal = f"overhead at {pixels} pixels"
        if not ours or not least:
            yield _not_measured(goal, f"<= {limit_ms:.1f} ms or {OVERHEAD_FACTOR:g} x floor")
            continue
        most = max(OVERHEAD_FACTOR * median(least), limit_ms)
        shown = f"{median(ours):.1f} ms ({median(ours) / median(least):.2f} x floor)"
        yield Verdict(goal, shown, f"<= {most:.1f} ms", median(ours) <= most)


def _load(found: Figures, floor: Figures) -> Iterator[Verdict]:
    for callers in (8, 32):
        ours = found.get(f"0 ms, {callers} callers", {}).get("per_s")
        goal, limit = f"engine at 0 ms, {callers} callers", f">= {IDLE_ENGINE_PER_S:.0f}/s"
        if not ours:
            yield _not_measured(goal, limit)
            continue
        yield Verdict(goal, f"{median(ours):.0f}/s", limit, median(ours) >= IDLE_ENGINE_PER_S)
    for callers in (1, 8, 32):
        key = f"50 ms, {callers} callers"
        ours, most = found.get(key, {}).get("per_s"), floor.get(key, {}).get("per_s")
        goal, limit = f"engine at {key}", f">= {BUSY_ENGINE_SHARE:.0%} of the floor"
        if not ours or not most:
            yield _not_measured(goal, limit)
            continue
        share = median(ours) / median(most)
        yield Verdict(goal, f"{share:.1%} of the floor", limit, share >= BUSY_ENGINE_SHARE)


def _cold(found: Figures) -> Iterator[Verdict]:
    goal, limit = "cold start beyond the engine's boot", f"<= {COLD_BEYOND_BOOT_S:g} s"
    if not found.get("ready_beyond_s"):
        yield _not_measured(goal, limit)
        return
    beyond = median(found["ready_beyond_s"])
    met = -COLD_CLOCK_S <= beyond <= COLD_BEYOND_BOOT_S
    yield Verdict(goal, f"{beyond:.2f} s", limit, met)


def _leak(found: Figures) -> Iterator[Verdict]:
    limit = f"<= {RSS_MB:.0f} MB"
    if not found or not found["marks"][-1][1]:  # 0 MB: the process is gone
        yield _not_measured("RSS over many requests", limit)
        return
    marks = found["marks"]
    last, end = marks[-1]
    quarter = next(mb for n, mb in marks if n >= last / 4)
    yield Verdict(f"RSS after {last} requests", f"{end:.0f} MB", limit, end <= RSS_MB)
    goal, limit = "RSS flat after the first quarter", f"<= +{RSS_GROWTH_MB:.0f} MB"
    yield Verdict(goal, f"{end - quarter:+.1f} MB", limit, end - quarter <= RSS_GROWTH_MB)
    yield Verdict("files left behind", str(found["files_left"]), "0", found["files_left"] == 0)


def _webhooks(found: Figures) -> Iterator[Verdict]:
    if not found or not found["marks"][-1]["rss_mb"]:
        yield _not_measured("jobs with webhooks", f"<= +{RSS_GROWTH_MB:.0f} MB")
        return
    marks, last = found["marks"], found["marks"][-1]
    # Not earlier: a thousand jobs are remembered in memory.
    half = next(mark for mark in marks if mark["jobs"] >= last["jobs"] / 2)
    grown = last["rss_mb"] - half["rss_mb"]
    goal, limit = f"RSS flat over {last['jobs']} webhooks", f"<= +{RSS_GROWTH_MB:.0f} MB"
    yield Verdict(goal, f"{grown:+.1f} MB", limit, grown <= RSS_GROWTH_MB)
    left = sum(marks[-2]["files"][part] for part in ("active", "pending", "dead"))
    yield Verdict("webhooks left when all are told", str(left), "0", left == 0)
    files, most = last["files"]["all"], f"<= {STATE_FILES}"
    yield Verdict("state files after the retention", str(files), most, files <= STATE_FILES)


def _big(found: Figures) -> Iterator[Verdict]:
    goal, limit = "growth for one large output", f"< {BIG_GROWTH_MB:.0f} MB"
    growth = found.get("growth_mb")
    if not growth:
        yield _not_measured(goal, limit)
        return
    yield Verdict(goal, f"{max(growth):.0f} MB", limit, max(growth) < BIG_GROWTH_MB)


def _adapter(name: str, found: Figures) -> Verdict:
    added = median(found["adapter_ms"])
    limit = f"<= {ADAPTER_MS:.0f} ms"
    return Verdict(f"{name} over its SDK", f"{added:.0f} ms", limit, added <= ADAPTER_MS)


def _download(found: Figures) -> Iterator[Verdict]:
    for kind, limits in DOWNLOAD_S.items():
        figures = found.get(kind, {})
        for name, most, key in zip(("wall", "CPU"), limits, ("wall_s", "cpu_s"), strict=True):
            if most is None:
                continue
            goal = f"three files, {kind}: {name}"
            if not figures:
                yield _not_measured(goal, f"<= {most:g} s")
                continue
            scaled, took = most * figures["mib"] / 1024, median(figures[key])
            yield Verdict(goal, f"{took:.2f} s", f"<= {scaled:.2f} s", took <= scaled)
    goal, cold = "three files beside a boot", found.get("cold start")
    if not cold or SLOW not in found:
        yield _not_measured(goal, "the longer of the two")
        return
    longer, took = max(cold["boot_s"], median(found[SLOW]["wall_s"])), cold["both_s"]
    limit = f"<= {longer:.1f} s, the longer of the two, + {OVERLAP_S:g} s"
    yield Verdict(goal, f"{took:.1f} s", limit, took <= longer + OVERLAP_S)


def goal_table(verdicts: list[Verdict], product: str) -> Table:
    table = Table(f"goals: {product}", ("goal", "measured", "limit", "met"))
    for each in verdicts:
        table.rows.append((each.goal, each.measured, each.limit, "yes" if each.met else "NO"))
    if not verdicts:
        table.notes.append("this run has no figures that a goal is about")
    return table
