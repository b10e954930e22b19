"""Cold and warm starts of a real ComfyUI, with read-ahead and without.

    COMFY_HOME=... COMFY_PYTHON=... python benchmarks/readahead.py sd15.safetensors
    ... --root /mnt/volume        # the checkpoint lies there instead, see MODEL_ROOTS
    ... --rounds 5 --size 256     # what the warmup makes

Each round starts `comfyfn serve` with a warmup of one step, waits for /ready, reads the phases of
the boot from /health, and ends it: read-ahead off and on in turns, first with the checkpoint's
pages dropped from the page cache (posix_fadvise), then with them all there. Goals: at least 20 %
less when cold, at most 3 % more when warm. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
QUIET = 0.1  # share of the CPUs that others may use
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READY_LIMIT_S = 300.0
LEAST_GAIN, MOST_LOSS = 0.20, 0.03
PHASES = ("process_s", "engine_answering_s", "node_info_s", "warmup_s")


def warmup(checkpoint: str, size: int) -> dict[str, Any]:
    """Give a graph that loads the checkpoint and makes one picture in one step."""
    text = {"text": "a boat on a lake", "clip": ["1", 1]}
    sampler = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["2", 0],
        "latent_image": ["3", 0],
        "seed": 0,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": text},
        "3": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": size, "height": size, "batch_size": 1},
        },
        "4": {"class_type": "KSampler", "inputs": sampler},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }


def find(name: str, root: Path | None) -> Path:
    """Find the checkpoint below the root, or below COMFY_HOME."""
    base = root or Path(os.environ["COMFY_HOME"])
    for folder in (base / "models" / "checkpoints", base / "checkpoints"):
        if (folder / name).is_file():
            return folder / name
    sys.exit(f"{name} is in no folder checkpoints of {base}")


def drop(path: Path) -> None:
    """Take a file out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def fill(path: Path) -> None:
    """Read a file into the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def start(args: argparse.Namespace, on: bool, prefix: list[str]) -> dict[str, Any]:
    """Start a server, wait until its warmup has ended, end it, and give its figures."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        env = {
            **os.environ,
            "PORT": str(port),
            "COMFYUI_PORT_HOST": str(free_port()),
            "INPUT_DIR": f"{home}/input",
            "OUTPUT_DIR": f"{home}/output",
            "WORK_DIR": f"{home}/work",
            "ALLOW_CPU": "true",
            "READ_AHEAD": "true" if on else "false",
            "WARMUP_PROMPT_JSON": json.dumps(warmup(args.checkpoint, args.size)),
            **({"MODEL_ROOTS": str(args.root)} if args.root else {}),
        }
        command = [*prefix, sys.executable, "-m", "local_server.cli", "serve"]
        begun, used = time.monotonic(), cpu_times()[0] / TICKS_PER_S - own_cpu_s()
        with (
            open(f"{home}/log", "wb") as log,
            subprocess.Popen(command, cwd=REPO, env=env, stdout=log, stderr=log) as server,
        ):
            try:
                seconds = until_ready(port, server, begun, Path(home, "log"))
                boot = json.loads(get(f"http://127.0.0.1:{port}/health")[1])["boot"]
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
    # The server's children count as ours once they have ended.
    others = cpu_times()[0] / TICKS_PER_S - own_cpu_s() - used
    share = max(0.0, others / (os.cpu_count() or 1) / (time.monotonic() - begun))
    return {"seconds": seconds, "boot": boot, "others": share}


def own_cpu_s() -> float:
    """Give the CPU seconds of this process and of its children that have ended."""
    mine = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in mine)


def until_quiet(limit_s: float) -> None:
    """Wait for a second in which the CPUs are mostly idle, so long at most."""
    until = time.monotonic() + limit_s
    while True:
        before = cpu_times()
        time.sleep(1)
        used, idle = (b - a for a, b in zip(before, cpu_times(), strict=True))
        busy = used / max(1, used + idle)
        if busy <= QUIET or time.monotonic() >= until:
            return


def cpu_times() -> tuple[int, int]:
    """Give the ticks of all CPUs so far: used, idle."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, idle


def until_ready(port: int, server: subprocess.Popen[bytes], begun: float, log: Path) -> float:
    while time.monotonic() - begun < READY_LIMIT_S:
        with contextlib.suppress(OSError):
            if get(f"http://127.0.0.1:{port}/ready")[0] == 200:
                return time.monotonic() - begun
        if server.poll() is not None:
            break
        time.sleep(0.02)
    sys.exit(f"it did not become ready:\n{log.read_text()[-4000:]}")


def measure(args: argparse.Namespace, path: Path, cold: bool) -> dict[bool, list[dict[str, Any]]]:
    """Run the rounds, off and on in turns, the first of each pair changing."""
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for number in range(args.rounds):
        for on in (False, True) if number % 2 == 0 else (True, False):
            for _ in range(args.tries):
                until_quiet(args.quiet_s)
                (drop if cold else fill)(path)
                last = start(args, on, args.prefix.split())
                if last["others"] <= QUIET:
                    break
                print(f"# disturbed: others {last['others']:.0%}", file=sys.stderr)
            found[on].append(last)
            told = (last["boot"].get("read_ahead") or {}).get("roots")
            print(
                f"# {'cold' if cold else 'warm'} {'on ' if on else 'off'} {last['seconds']:.2f} s "
                f"others {last['others']:.0%} {last['boot']['phases']} {told}",
                file=sys.stderr,
            )
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}..{max(values):.2f}]"


def row(cold: bool, on: bool, rounds: list[dict[str, Any]]) -> str:
    cells = [spread([one["seconds"] for one in rounds])]
    cells += [spread([one["boot"]["phases"][name] for one in rounds]) for name in PHASES]
    rates = [
        root["mb_per_s"]
        for one in rounds
        for root in (one["boot"].get("read_ahead") or {"roots": {}})["roots"].values()
        if root["mb_per_s"]
    ]
    cells.append(f"{statistics.median(rates):.0f}" if rates else "-")
    cells.append(f"{statistics.median([one['others'] for one in rounds]):.0%}")
    return f"| {'cold' if cold else 'warm'} | {'on' if on else 'off'} | {' | '.join(cells)} |"


def main() -> None:
    """Read the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", help="name of a checkpoint that loads, some GB large")
    parser.add_argument("--root", type=Path, help="the root that it lies in; default: COMFY_HOME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="of the picture, in pixels")
    parser.add_argument("--only", choices=["cold", "warm"], help="measure one of both")
    parser.add_argument(
        "--quiet-s", type=float, default=0, help="wait so long for others to leave the CPU alone"
    )
    parser.add_argument(
        "--tries", type=int, default=1, help="repeat a start so often while others use the CPU"
    )
    parser.add_argument("--prefix", default="", help="words before the command, as `nice`")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--strict", action="store_true", help="a missed goal is the exit status 1")
    args = parser.parse_args()
    path, missed, figures = find(args.checkpoint, args.root), False, {}
    kinds = [kind == "cold" for kind in ("cold", "warm") if args.only in (None, kind)]
    lines = []
    for cold in kinds:
        found = measure(args, path, cold)
        figures["cold" if cold else "warm"] = found
        lines += [row(cold, on, found[on]) for on in (False, True)]
        off, on = (statistics.median([r["seconds"] for r in found[k]]) for k in (False, True))
        change = on / off - 1
        good = change <= (-LEAST_GAIN if cold else MOST_LOSS)
        missed |= not good
        goal = f"{-LEAST_GAIN:.0%}" if cold else f"+{MOST_LOSS:.0%}"
        lines.append(f"\n{change:+.1%}, goal {goal}: {'met' if good else 'missed'}\n")
    names = " | ".join(name.removesuffix("_s") for name in PHASES)
    print(f"{path.stat().st_size / 1e9:.1f} GB, seconds as median [lowest..highest]\n")
    print(f"| | read-ahead | start to ready | {names} | MB/s | CPU of others |")
    print("|" + "---|" * (5 + len(PHASES)))
    print("\n".join(lines))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    sys.exit(1 if missed and args.strict else 0)


if __name__ == "__main__":
    main()
