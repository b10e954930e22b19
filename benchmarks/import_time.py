"""How long the product's imports take, each in a fresh interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from report import Measured, Table, median, spread
from specs import REPO

MODULES = ("handler", "adapters.asgi", "local_server.cli")
SHOWN_PARTS = 4
# -X importtime: "import time: <self us> | <cumulative us> | <two spaces a level><module>"
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")


@dataclass(frozen=True, slots=True)
class Imported:
    """One import: all of it in ms, and the ms that each top-level package took itself."""

    total_ms: float
    parts_ms: dict[str, float]


def parse(text: str) -> Imported:
    """What came after the interpreter's own start, whose last import is `site`."""
    total, parts, own = 0, defaultdict[str, float](float), False
    for self_us, cumulative_us, indent, module in LINE.findall(text):
        if own:
            parts[module.split(".")[0]] += int(self_us) / 1000
            total += 0 if indent else int(cumulative_us)
        own = own or module == "site"
    return Imported(total / 1000, dict(parts))


def _fresh_import(module: str) -> Imported | str:
    """One import, or the last line of why it fails."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1]
    return parse(done.stderr)


def _wall_ms(command: list[str]) -> float | str:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return (time.perf_counter() - began) * 1000


def imports(rounds: int) -> Measured:
    """Milliseconds of each public import and of `comfyfn --help`; the first round warms files."""
    head = ("what", "n", "ms", "most of it")
    measured = Measured(Table("imports: fresh interpreters", head))
    for module in MODULES:
        found = [_fresh_import(module) for _ in range(rounds + 1)][1:]
        good = [each for each in found if isinstance(each, Imported)]
        if not good:
            measured.table.notes.append(f"import {module} not measured: {found[-1]}")
            continue
        times = [each.total_ms for each in good]
        parts = sorted(good[-1].parts_ms.items(), key=lambda item: -item[1])[:SHOWN_PARTS]
        shown = ", ".join(f"{name} {ms:.0f}" for name, ms in parts)
        measured.figures[module] = {"import_ms": times, "parts_ms": dict(parts)}
        row = (f"`import {module}`", str(len(times)), spread(times), shown)
        measured.table.rows.append(row)
    script = Path(sys.executable).with_name("comfyfn")
    help_command = [str(script)] if script.exists() else [sys.executable, "-m", "local_server.cli"]
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    commands["comfyfn --help"] = [*help_command, "--help"]
    for label, command in commands.items():
        walls = [_wall_ms(command) for _ in range(rounds + 1)][1:]
        times = [wall for wall in walls if isinstance(wall, float)]
        if not times:
            measured.table.notes.append(f"`{label}` not measured: {walls[-1]}")
            continue
        measured.figures[label] = {"wall_ms": times, "median_ms": median(times)}
        measured.table.rows.append((f"`{label}`, wall", str(len(times)), spread(times), ""))
    return measured
