"""How fast: one request after another (latency), and many callers at once (load).

Targets take turns, round by round, so that what else the machine does hits them alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from report import Figures, Measured, Table, counted, median, middle, percentile, spread
from shapes import noise_graph
from targets import Target, TargetFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

# (pixels a side, requests of one target in one round)
SIZES = ((64, 20), (1024, 10), (2048, 6))
DELAYS_MS = (0, 50)
CALLERS = (1, 8, 32)
MAX_ROUND_S = 10.0
REQUEST_S = 40.0


@contextlib.asynccontextmanager
async def all_started(targets: Iterable[Target], table: Table) -> AsyncIterator[list[Target]]:
    """Those of the targets that start; the others become notes of the table."""
    async with contextlib.AsyncExitStack() as stack:
        up = []
        for target in targets:
            try:
                up.append(await stack.enter_async_context(target))
            except TargetFailedError as error:
                table.notes.append(f"{target.name} not measured: {error}")
        yield up


def turns(targets: Sequence[Target], index: int) -> list[Target]:
    """The targets in the order of round `index`: each is first in turn."""
    shift = index % max(1, len(targets))
    return [*targets[shift:], *targets[:shift]]


@dataclass(slots=True)
class Rounds:
    """What the rounds of one cell found; times in ms."""

    wall: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    all_wall: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def figures(self) -> Figures:
        found: Figures = {"wall_ms": self.wall, "n": len(self.all_wall)}
        found |= {"engine_ms": self.engine, "overhead_ms": self.overhead}
        found |= {"per_s": self.per_s, "errors": dict(self.errors)}
        if self.all_wall:
            found["p50_ms"] = median(self.all_wall)
            found["p99_ms"] = percentile(self.all_wall, 0.99)
        return found


async def _one_by_one(target: Target, pixels: int, count: int, into: Rounds) -> None:
    await target.engine_ms()
    wall = []
    deadline = time.monotonic() + MAX_ROUND_S
    for _ in range(count):
        if time.monotonic() > deadline:
            break
        answer, wrong = await target.attempt(noise_graph(pixels), REQUEST_S)
        if wrong is not None:
            into.errors[wrong] += 1
        else:
            wall.append(answer.seconds * 1000)
    engine = await target.engine_ms()
    if wall:
        into.all_wall += wall
        into.wall.append(median(wall))
    if engine:
        into.engine.append(median(engine))
    if wall and engine:
        into.overhead.append(median(wall) - median(engine))


async def latency(targets: list[Target], rounds: int) -> Measured:
    """Wall, engine and overhead milliseconds of sequential requests."""
    head = ("pixels", "target", "n", "wall ms", "engine ms", "overhead ms", "p99 wall ms", "errors")
    measured = Measured(Table("latency: sequential requests, engine at 0 ms", head))
    async with all_started(targets, measured.table) as up:
        for pixels, count in SIZES:
            found = {target.name: Rounds() for target in up}
            for target in up:
                await target.attempt(noise_graph(pixels), REQUEST_S)  # the engine makes its noise
            for index in range(rounds):
                for target in turns(up, index):
                    await _one_by_one(target, pixels, count, found[target.name])
            for name, cell in found.items():
                measured.figures.setdefault(name, {})[str(pixels)] = cell.figures()
                wall, engine, over = spread(cell.wall), middle(cell.engine), spread(cell.overhead)
                p99 = f"{percentile(cell.all_wall, 0.99):.1f}" if cell.all_wall else "-"
                row = (str(pixels), name, str(len(cell.all_wall)), wall, engine, over, p99)
                measured.table.rows.append((*row, counted(cell.errors)))
    return measured


async def _burst(target: Target, callers: int, seconds: float, into: Rounds) -> None:
    finished: list[float] = []
    wall: list[float] = []
    await asyncio.gather(*(target.attempt(noise_graph(64), REQUEST_S) for _ in range(callers)))
    begin = time.perf_counter()

    async def call() -> None:
        while time.perf_counter() < begin + seconds:
            answer, wrong = await target.attempt(noise_graph(64), REQUEST_S)
            if wrong is not None:
                into.errors[wrong] += 1
            else:
                wall.append(answer.seconds * 1000)
                finished.append(time.perf_counter())

    await asyncio.gather(*(call() for _ in range(callers)))
    into.all_wall += wall
    into.per_s.append(len(finished) / (max(finished) - begin) if finished else 0.0)


async def load(targets: list[Target], rounds: int, seconds: float) -> Measured:
    """Requests per second with 1, 8 and 32 callers, 64 pixel images."""
    head = ("engine ms", "callers", "target", "requests/s", "p50 ms", "p99 ms", "n", "errors")
    measured = Measured(Table("load: callers at once, 64 pixels", head))
    async with all_started(targets, measured.table) as up:
        for delay in DELAYS_MS:
            for callers in CALLERS:
                found = {target.name: Rounds() for target in up}
                for index in range(rounds):
                    for target in turns(up, index):
                        await target.set_delay(delay)
                        await _burst(target, callers, seconds, found[target.name])
                for name, cell in found.items():
                    key = f"{delay} ms, {callers} callers"
                    measured.figures.setdefault(name, {})[key] = cell.figures()
                    row = (str(delay), str(callers), name, spread(cell.per_s))
                    row += (middle(cell.all_wall, 0),)
                    row += (f"{percentile(cell.all_wall, 0.99):.0f}" if cell.all_wall else "-",)
                    measured.table.rows.append(
                        (*row, str(len(cell.all_wall)), counted(cell.errors))
                    )
    return measured
