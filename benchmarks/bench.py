"""Measure servers over a stand-in engine, next to the floor: a client of the engine itself.

    python benchmarks/bench.py all --quick
    python benchmarks/bench.py latency load --targets direct,comfyfn --rounds 5

Tables go to the standard output as Markdown, and with all figures as JSON to a file.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_imports import adapter_imports
from download import download
from footprint import BOOT_S, big, body, cold, leak
from goals import goal_table, judge
from import_time import imports
from report import Table
from specs import HERE, REPO, Spec, read_specs
from speed import latency, load
from targets import Target
from webhooks import ENV as WEBHOOKS_ENV
from webhooks import webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from report import Figures, Measured

MEASURES = (
    *("latency", "load", "cold", "leak", "webhooks", "big", "body", "imports", "adapters"),
    "download",
)
BODY_LIMIT = {"MAX_BODY_SIZE_MB": "200"}


@dataclass(frozen=True, slots=True)
class Effort:
    """How often and how long: rounds of each measure, seconds of one burst of load."""

    latency: int = 5
    load: int = 3
    load_s: float = 5.0
    cold: int = 5
    leak_requests: int = 2000
    leak_s: float = 120.0
    webhooks: int = 2000
    webhooks_s: float = 180.0
    big: int = 3
    big_mb: int = 200
    body: int = 3
    imports: int = 7
    download: int = 3
    download_mib: int = 1024


QUICK = Effort(
    latency=3,
    load=2,
    load_s=1.5,
    cold=3,
    leak_s=40.0,
    webhooks=400,
    big=2,
    body=2,
    imports=3,
    download=1,
)


def measure(
    name: str, specs: list[Spec], scratch: Path, effort: Effort
) -> Coroutine[Any, Any, Measured]:
    """The measure of that name, ready to be run."""

    def made(boot_s: float = 0.0, env: dict[str, str] | None = None) -> list[Target]:
        return [Target(spec, scratch, boot_s=boot_s, extra_env=env) for spec in specs]

    table: dict[str, Callable[[], Coroutine[Any, Any, Measured]]] = {
        "latency": lambda: latency(made(), effort.latency),
        "load": lambda: load(made(), effort.load, effort.load_s),
        "cold": lambda: cold(made(boot_s=BOOT_S), effort.cold),
        "leak": lambda: leak(made(), effort.leak_requests, effort.leak_s),
        "webhooks": lambda: webhooks(made(env=WEBHOOKS_ENV), effort.webhooks, effort.webhooks_s),
        "big": lambda: big(made(), effort.big, effort.big_mb),
        "body": lambda: body(made(env=BODY_LIMIT), effort.body),
        "imports": lambda: asyncio.to_thread(imports, effort.imports),
        "adapters": lambda: asyncio.to_thread(adapter_imports, effort.imports),
        "download": lambda: asyncio.to_thread(
            download, effort.download, effort.download_mib, scratch
        ),
    }
    return table[name]()


async def run(
    names: list[str], specs: list[Spec], scratch: Path, effort: Effort
) -> dict[str, Figures]:
    """Measure and print one after another; the figures by measure, then by target."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures = {}
    for name in names:
        began = time.perf_counter()
        measured = await measure(name, specs, scratch, effort)
        figures[name] = measured.figures
        print(measured.table.markdown(), flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


def machine() -> dict[str, object]:
    """Where the figures come from."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def machine_table() -> Table:
    found = machine()
    table = Table("machine", ())
    table.notes.append(", ".join(f"{key} {value}" for key, value in found.items()))
    return table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measures", nargs="+", choices=[*MEASURES, "all"], metavar="MEASURE",
                        help=f"{', '.join(MEASURES)}, or all")  # fmt: skip
    parser.add_argument("--targets", help="names, with commas; default: all known")
    parser.add_argument("--targets-file", type=Path, action="append", default=[],
                        help="more targets, a TOML file like targets.toml")  # fmt: skip
    parser.add_argument("--product", default="comfyfn", help="the target held to the goals")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about 4 minutes")
    parser.add_argument("--rounds", type=int, help="rounds of every measure")
    parser.add_argument("--seconds", type=float, help="of one burst of load")
    parser.add_argument("--requests", type=int, help="of leak and webhooks")
    parser.add_argument("--size-mb", type=int, help="of the output of big, in MiB")
    parser.add_argument("--file-mb", type=int, help="of each file of download, in MiB")
    parser.add_argument("--scratch", type=Path, default=REPO / "bench-scratch")
    parser.add_argument("--json", type=Path, help="default: results/bench.json in the scratch")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


def effort_of(args: argparse.Namespace) -> Effort:
    effort = QUICK if args.quick else Effort()
    given: dict[str, Any] = {}
    if args.rounds:
        given |= dict.fromkeys(("latency", "load", "cold", "big", "body", "imports"), args.rounds)
        given["download"] = args.rounds
    named = {"load_s": args.seconds, "leak_requests": args.requests, "big_mb": args.size_mb}
    named |= {"webhooks": args.requests, "download_mib": args.file_mb}
    given |= {name: value for name, value in named.items() if value is not None}
    return dataclasses.replace(effort, **given)


def main() -> int:
    args = parse_args()
    specs = read_specs(HERE / "targets.toml", *args.targets_file)
    names = args.targets.split(",") if args.targets else list(specs)
    unknown = [name for name in names if name not in specs]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(specs)}", file=sys.stderr)
        return 2
    measures = list(MEASURES) if "all" in args.measures else args.measures
    scratch = args.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    about = machine()
    print(machine_table().markdown(), flush=True)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        chosen = [specs[name] for name in names]
        figures = asyncio.run(run(measures, chosen, scratch, effort_of(args)))
        verdicts = judge(figures, args.product) if args.product in names else []
        print(goal_table(verdicts, args.product).markdown(), flush=True)
        out = args.json or scratch / "results" / "bench.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        goals = [dataclasses.asdict(each) for each in verdicts]
        found = {"machine": about, "measures": figures, "goals": goals}
        out.write_text(json.dumps(found, indent=1))
        print(f"figures: {out}", file=sys.stderr)
        return int(args.strict and not all(each.met for each in verdicts))
    return 130


if __name__ == "__main__":
    sys.exit(main())
