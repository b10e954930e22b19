"""What each adapter adds to its platform's bare SDK until the engine is launched."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from report import Measured, Table, median, spread
from specs import REPO


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, and what any worker of its platform has to import."""

    sdk: str
    ours: str


ADAPTERS = {
    "runpod": Adapter("runpod.serverless", "adapters.runpod_worker"),
    "modal": Adapter("modal", "adapters.modal_app"),
    "salad": Adapter("uvicorn, starlette.applications", "adapters.salad_container"),
    "http": Adapter("uvicorn, starlette.applications", "adapters.serving"),
}
# Loaded while the engine boots; all of it with the libraries that it draws on.
HANDLER = "handler.build, adapters.asgi"


def adapter_imports(rounds: int) -> Measured:
    """Milliseconds of fresh interpreters, the three of a round in turn; the first warms files."""
    head = ("adapter", "n", "bare SDK ms", "adapter ms", "with the handler, ms")
    measured = Measured(Table("adapters: over their SDK alone", head))
    for name, adapter in ADAPTERS.items():
        walls = [_round(adapter) for _ in range(rounds + 1)][1:]
        bare = [first for first, _, _ in walls]
        ours = [second - first for first, second, _ in walls]
        whole = [third - first for first, _, third in walls]
        measured.figures[name] = {"bare_ms": bare, "adapter_ms": ours, "handler_ms": whole}
        row = (name, str(rounds), spread(bare, 0), f"+{median(ours):.0f}", f"+{median(whole):.0f}")
        measured.table.rows.append(row)
    measured.table.notes.append(
        "the adapter is what stands before the engine's launch; the handler loads while it boots"
    )
    return measured


def _round(adapter: Adapter) -> tuple[float, float, float]:
    sdk, ours = f"import {adapter.sdk}", f"import {adapter.sdk}, {adapter.ours}"
    return _wall_ms(sdk), _wall_ms(ours), _wall_ms(f"{ours}, {HANDLER}")


def _wall_ms(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, check=True)
    return (time.perf_counter() - began) * 1000
