"""Three large files from nginx: how long they take, what CPU they cost, and beside a boot."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from files_served import FILES, FREE, SLOW, free_port, make_files, names, nginx
from processes import cpu_s, family, kill
from report import Measured, Table, median, spread
from specs import HERE, REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

PRODUCT, CURL = "comfyfn", "curl"
BOOT_S = 10.0
READY_S = 120.0
ENGINE_MARK = "local_server.engine"
COLD = "cold start"
LAST_LINES = 5


def download(rounds: int, mib: int, scratch: Path) -> Measured:
    """Fetch `FILES` files of `mib` MiB at once, in a fresh process each round.

    `curl` fetches them at once, too, over one connection each: the floor of what CPU it takes, and
    what one connection a file gives. The cold start is a whole server: three models in a manifest,
    over an engine that boots in `BOOT_S` seconds.
    """
    head = ("what", "by", "n", "wall s", "MiB/s", "CPU s")
    measured = Measured(Table(f"download: {FILES} files of {mib} MiB from nginx", head))
    scratch.mkdir(parents=True, exist_ok=True)
    if why := _cannot(mib, scratch):
        measured.table.notes.append(f"not measured: {why}")
        return measured
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=scratch, prefix="download-") as name:
        folder = Path(name)
        make_files(folder / "www", mib)
        with nginx(folder) as addresses:
            for number in range(rounds):
                for kind, by in ((FREE, CURL), (FREE, PRODUCT), (SLOW, PRODUCT)):
                    with _target(folder) as target:
                        figures = _fetched(by, addresses[kind], target)
                    found.setdefault((kind, by), []).append(figures)
                if number == 0:
                    _cold_starts(measured, folder, addresses[SLOW])
    _report(measured, found, mib)
    return measured


def _cannot(mib: int, scratch: Path) -> str:
    if missing := [name for name in ("nginx", CURL) if shutil.which(name) is None]:
        return f"{' and '.join(missing)} not on the PATH"
    need, free = (2 * FILES + 1) * (mib << 20), shutil.disk_usage(scratch).free
    if free < need:
        return f"{need >> 30} GiB of disk are needed in {scratch}, {free >> 30} GiB are free"
    return ""


@contextlib.contextmanager
def _target(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def _fetched(by: str, address: str, target: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one round."""
    urls = [f"{address}/{name}" for name in names()]
    if by == PRODUCT:
        command = [sys.executable, str(HERE / "fetch_files.py"), str(target), *urls]
        told = json.loads(subprocess.check_output(command))
        return told["wall_s"], told["cpu_s"]
    command = [CURL, "--no-progress-meter", "--fail", "--parallel", "--remote-name-all", *urls]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, cwd=target, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _report(
    measured: Measured, found: dict[tuple[str, str], list[tuple[float, float]]], mib: int
) -> None:
    table = measured.table
    for (kind, by), figures in found.items():
        wall, cpu = ([figure[place] for figure in figures] for place in (0, 1))
        measured.figures.setdefault(by, {})[kind] = {"wall_s": wall, "cpu_s": cpu, "mib": mib}
        rate = FILES * mib / median(wall)
        row = (kind, by, str(len(figures)), spread(wall, 2), f"{rate:.0f}", spread(cpu, 2))
        table.rows.append(row)
    cold = measured.figures[PRODUCT].get(COLD)
    if cold:
        alone = f"boot of {BOOT_S:g} s alone: process start to ready"
        both = f"the same with the files in its manifest, {SLOW}"
        table.rows.append((alone, PRODUCT, "1", f"{cold['boot_s']:.2f}", "-", "-"))
        cpu_of_server = f"{cold['cpu_s']:.2f}"
        table.rows.append((both, PRODUCT, "1", f"{cold['both_s']:.2f}", "-", cpu_of_server))
        table.notes.append("CPU of the cold start is that of the whole server without its engine")
    table.notes.append("nginx, its client and the disk share the machine; headers are checked")


def _cold_starts(measured: Measured, folder: Path, address: str) -> None:
    """Start a server without and with the files in its manifest; the second round's figures."""
    models = {"before_start": [{"url": f"{address}/{n}", "folder": "vae"} for n in names()]}
    manifest = json.dumps({"models": models})
    try:
        boot_s, _ = _cold_start(folder, {})
        both_s, server_cpu_s = _cold_start(folder, {"MANIFEST_JSON": manifest})
    except RuntimeError as error:
        measured.table.notes.append(f"no cold start: {error}")
        return
    figures = {"boot_s": boot_s, "both_s": both_s, "cpu_s": server_cpu_s}
    measured.figures.setdefault(PRODUCT, {})[COLD] = figures


def _cold_start(folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Seconds from a server's start to ready, and the CPU it took.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    with _target(folder) as home, (home / "log").open("w+b") as log:
        port = free_port()
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "COMFYUI_PORT_HOST": str(free_port()),
            "MODEL_DIR": str(home / "models"),
            "CACHE_DIR": str(home / "cache"),
            "COMFYFN_TEST_FAULTS": "true",
            "COMFY_ARGS": f"--test-boot-seconds {BOOT_S:g}",
            **env,
        }
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "local_server.cli", "serve"],
            cwd=REPO, env=given, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - began > READY_S:
                    log.seek(0)
                    last = log.read().decode().splitlines()[-LAST_LINES:]
                    raise RuntimeError("the server is not ready: " + " | ".join(last))
                time.sleep(0.05)
            wall = time.perf_counter() - began
            there = sorted(path.name for path in (home / "models").rglob("*.safetensors"))
            if env and there != names():
                raise RuntimeError(f"ready without its models: {there}")
            return wall, cpu_s(family(process.pid, ENGINE_MARK))
        finally:
            kill(process.pid)
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # no listener yet, or 503
        return False
