"""What a server costs: its start (cold), memory over time (leak), memory for large things."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from collections import Counter
from typing import TYPE_CHECKING

from processes import Peak, cpu_s, family, rss_mb
from report import Figures, Measured, Table, counted, spread
from shapes import SHAPES, fault, file_graph, noise_graph, outputs
from stub_nodes import file_block, noise_png
from targets import LOST, Target, TargetFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shapes import Answer

BOOT_S = 2.0
LEAK_CALLERS = 4
LEAK_PIXELS = 256
LEAK_MARKS = 8
LARGE_S = 120.0
BODY_MB = 150
# Noise of that many pixels a side is a PNG of 112 MiB: 150 MiB as base64.
BODY_PIXELS = 6264


async def cold(targets: list[Target], rounds: int) -> Measured:
    """Seconds from a process's start to ready and to the first answer, beyond the engine's boot.

    The engine of each target must boot in `BOOT_S` seconds.
    """
    head = ("target", "ready s", "ready beyond boot s", "first answer beyond boot s")
    head += ("RSS MB", "CPU s", "errors")
    title = f"cold: over an engine that boots in {BOOT_S:g} s"
    measured = Measured(Table(title, head))
    names = ("ready_s", "ready_beyond_s", "first_beyond_s", "rss_mb", "cpu_s")
    for target in targets:
        measured.figures[target.name] = {name: [] for name in names} | {"errors": Counter[str]()}
    for _ in range(rounds):
        for target in targets:
            kept = measured.figures[target.name]
            try:
                found = await _cold_start(target)
            except (TargetFailedError, *LOST) as error:
                kept["errors"][type(error).__name__] += 1
                note = f"{target.name} failed: {error}"
                if note not in measured.table.notes:
                    measured.table.notes.append(note)
                continue
            for name, value in zip(names, found, strict=True):
                kept[name].append(value)
    for name, kept in measured.figures.items():
        cells = [spread(kept[k], 0 if k == "rss_mb" else 2) for k in names]
        measured.table.rows.append((name, *cells, counted(kept["errors"])))
    return measured


async def _cold_start(target: Target) -> tuple[float, float, float, float, float]:
    target.prepare()
    try:
        begin = time.perf_counter()
        target.launch()
        await target.wait_ready()
        ready = time.perf_counter() - begin
        _, wrong = await target.attempt(noise_graph(64), 30)
        first = time.perf_counter() - begin
        if wrong is not None:
            raise TargetFailedError(f"first answer: {wrong}")
        pids = family(target.pid, target.engine_mark if target.server else "")
        return ready, ready - BOOT_S, first - BOOT_S, rss_mb(pids), cpu_s(pids)
    finally:
        await target.stop()


async def leak(targets: list[Target], requests: int, max_s: float) -> Measured:
    """Resident memory over many requests, and the files they leave behind."""
    head = ("target", "requests", "requests: RSS MB", "files left", "errors")
    title = f"leak: {LEAK_CALLERS} callers, {LEAK_PIXELS} pixels"
    measured = Measured(Table(title, head))
    for target in targets:
        if not target.spec.start:
            continue
        try:
            async with target:
                found = await _many(target, requests, max_s)
        except TargetFailedError as error:
            measured.table.notes.append(f"{target.name} not measured: {error}")
            continue
        measured.figures[target.name] = found
        marks = ", ".join(f"{n}: {mb:.0f}" for n, mb in found["marks"])
        row = (target.name, str(found["requests"]), marks, str(found["files_left"]))
        measured.table.rows.append((*row, counted(found["errors"])))
    return measured


async def _many(target: Target, requests: int, max_s: float) -> Figures:
    def rss() -> float:
        return rss_mb(family(target.pid, target.engine_mark))

    before = _file_count(target)
    marks, errors, done = [(0, rss())], Counter[str](), 0
    deadline = time.monotonic() + max_s

    async def call() -> None:
        nonlocal done
        while done < requests and time.monotonic() < deadline:
            done += 1
            _, wrong = await target.attempt(noise_graph(LEAK_PIXELS))
            if wrong is not None:
                errors[wrong] += 1
            if LEAK_MARKS > len(marks) <= done * LEAK_MARKS / requests:
                marks.append((done, rss()))

    await asyncio.gather(*(call() for _ in range(LEAK_CALLERS)))
    marks.append((done, rss()))
    found: Figures = {"requests": done, "marks": marks, "errors": dict(errors)}
    # A server may remove an output after it has answered; a moment is enough for that.
    await asyncio.sleep(0.5)
    return found | {"files_left": _file_count(target) - before}


def _file_count(target: Target) -> int:
    folders = (target.home / name for name in ("input", "output", "temp"))
    return sum(path.is_file() for folder in folders for path in folder.rglob("*"))


async def big(targets: list[Target], rounds: int, size_mb: int) -> Measured:
    """Peak memory growth while one large output is answered."""

    async def ask(target: Target) -> Answer:
        return await target.run(file_graph(size_mb), LARGE_S)

    async def check(target: Target, answer: Answer) -> str | None:
        return await asyncio.to_thread(_file_fault, target.shape, answer, size_mb)

    return await _growth(f"big: one output of {size_mb} MiB", targets, rounds, ask, check)


def _file_fault(shape: str, answer: Answer, size_mb: int) -> str | None:
    """Whether the answer holds the very bytes that the engine wrote."""
    found = outputs(shape, answer)
    if not found:
        return fault(shape, answer)
    wanted, block = hashlib.sha1(usedforsecurity=False), file_block(size_mb)
    for _ in range(size_mb):
        wanted.update(block)
    with contextlib.suppress(ValueError):
        data = base64.b64decode(found[0], validate=True)
        if hashlib.sha1(data, usedforsecurity=False).digest() == wanted.digest():
            return None
    return "other bytes than the engine wrote"


async def body(targets: list[Target], rounds: int) -> Measured:
    """Peak memory growth while a large request body is taken."""
    image = noise_png(BODY_PIXELS, BODY_PIXELS)

    async def ask(target: Target) -> Answer:
        shape = SHAPES[target.shape]
        sent = json.dumps(shape.input_body(image)).encode()
        return await target.post(shape.path, sent, LARGE_S)

    async def check(target: Target, answer: Answer) -> str | None:
        return fault(target.shape, answer)

    asked = [target for target in targets if target.shape in SHAPES]
    return await _growth(f"body: a request of {BODY_MB} MiB", asked, rounds, ask, check)


async def _growth(
    title: str,
    targets: list[Target],
    rounds: int,
    ask: Callable[[Target], Awaitable[Answer]],
    check: Callable[[Target, Answer], Awaitable[str | None]],
) -> Measured:
    head = ("target", "n", "wall s", "RSS before MB", "peak growth MB", "RSS after MB", "errors")
    measured = Measured(Table(title, head))
    for target in targets:
        wall, growth, errors = [], [], Counter[str]()
        try:
            async with target:
                peak = Peak(target.pid, target.engine_mark if target.server else "")
                before = rss_mb(peak.members())
                for _ in range(rounds):
                    try:
                        async with peak.watched():
                            answer = await ask(target)
                        wrong = await check(target, answer)
                    except LOST as error:
                        wrong = type(error).__name__
                    if wrong is not None:
                        errors[wrong] += 1
                        continue
                    wall.append(answer.seconds)
                    if target.server:
                        growth.append(peak.mb - before)
                    del answer
                after = rss_mb(peak.members())
        except TargetFailedError as error:
            measured.table.notes.append(f"{target.name} not measured: {error}")
            continue
        found: Figures = {"wall_s": wall, "growth_mb": growth, "errors": dict(errors)}
        measured.figures[target.name] = found | {"before_mb": before, "after_mb": after}
        row = (target.name, str(len(wall)), spread(wall, 2), f"{before:.0f}")
        row += (spread(growth, 0), f"{after:.0f}", counted(errors))
        measured.table.rows.append(row)
    return measured
