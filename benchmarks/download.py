"""Fetch three files of 1 GiB from nginx on loopback: unthrottled, and at 30 MB/s a connection.

    python benchmarks/download.py                 # both, three rounds, next to the goals
    python benchmarks/download.py --rounds 1 --mib 256
    python benchmarks/download.py --sha256        # with a hash to check

CPU is that of this process (user and system), which holds nothing but the downloader; nginx shares
the machine. Files and configuration lie in bench-scratch/files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import hashlib
import json
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from handler.inputs.address import AddressPolicy  # noqa: E402
from handler.transfer.download import Downloader  # noqa: E402
from handler.transfer.http_source import HttpSource  # noqa: E402
from handler.transfer.records import Wanted  # noqa: E402
from handler.transfer.threads import Threads  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 3
GOALS = {"unthrottled": {"wall": 6.0, "cpu": 4.0}, "30 MB/s": {"wall": 20.0, "cpu": None}}
CONF = """
worker_processes 1; pid {d}/nginx.pid; error_log {d}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; root {d}/www;
  client_body_temp_path {d}/a; proxy_temp_path {d}/b; fastcgi_temp_path {d}/c;
  uwsgi_temp_path {d}/d; scgi_temp_path {d}/e;
  server {{ listen 127.0.0.1:{free}; }}
  server {{ listen 127.0.0.1:{slow}; limit_rate 30m; }}
}}
"""


def make_files(folder: Path, mib: int) -> None:
    """Write safetensors files of noise: a header, then one tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    size = mib << 20
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    for number in range(FILES):
        path = folder / f"m{number}.safetensors"
        if path.exists() and path.stat().st_size == 8 + len(header) + size:
            continue
        with path.open("wb") as file, open("/dev/urandom", "rb") as noise:
            file.write(struct.pack("<Q", len(header)) + header)
            for _ in range(mib):
                file.write(noise.read(1 << 20))


@contextlib.contextmanager
def nginx(scratch: Path) -> Iterator[dict[str, int]]:
    """Run nginx on two free ports for the time of a block."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = {"unthrottled": one.getsockname()[1], "30 MB/s": two.getsockname()[1]}
    conf = scratch / "nginx.conf"
    conf.write_text(CONF.format(d=scratch, free=ports["unthrottled"], slow=ports["30 MB/s"]))
    with subprocess.Popen(["nginx", "-c", conf, "-g", "daemon off;"]) as process:
        deadline = time.monotonic() + 10
        for port in ports.values():
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
        try:
            yield ports
        finally:
            process.terminate()


def cpu() -> float:
    """Give the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fetch_all(port: int, target: Path, hashes: dict[str, str]) -> tuple[float, float]:
    """Fetch the files and give wall and CPU seconds."""
    threads = Threads()
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    downloader = Downloader(lambda _: source, threads=threads)
    began, used = time.monotonic(), cpu()
    await asyncio.gather(
        *(
            downloader.download(
                Wanted(f"http://127.0.0.1:{port}/{name}", target / name, hashes.get(name))
            )
            for name in (f"m{number}.safetensors" for number in range(FILES))
        )
    )
    figures = time.monotonic() - began, cpu() - used
    await downloader.close()
    return figures


def one(port: int, target: Path, hashes: dict[str, str]) -> None:
    """Do one round in this process and print it; started by `main` for each."""
    print(json.dumps(asyncio.run(fetch_all(port, target, hashes))))


def rounds(
    args: argparse.Namespace, port: int, scratch: Path, hashes: dict[str, str]
) -> list[list[float]]:
    """Run the rounds, each in a fresh process."""
    found = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=scratch) as target:
            command = [sys.executable, __file__, "--one", str(port), target, json.dumps(hashes)]
            found.append(json.loads(subprocess.check_output(command)))
    return found


def main() -> None:
    """Read the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="size of each file")
    parser.add_argument("--sha256", action="store_true", help="have the files hashed and checked")
    parser.add_argument("--profile", action="store_true", help="profile one unthrottled round")
    parser.add_argument("--strict", action="store_true", help="a missed goal is the exit status 1")
    parser.add_argument("--scratch", type=Path, default=REPO / "bench-scratch" / "files")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(int(args.one[0]), Path(args.one[1]), json.loads(args.one[2]))
    if shutil.which("nginx") is None:
        sys.exit("nginx is not on the PATH")
    scratch = args.scratch.resolve()
    make_files(scratch / "www", args.mib)
    hashes = {}
    if args.sha256:
        for path in (scratch / "www").iterdir():
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    missed = False
    with nginx(scratch) as ports:
        if args.profile:
            with tempfile.TemporaryDirectory(dir=scratch) as target, cProfile.Profile() as profile:
                asyncio.run(fetch_all(ports["unthrottled"], Path(target), hashes))
            profile.print_stats("tottime")
            return None
        print(f"three files of {args.mib} MiB, {'hashed' if hashes else 'header checked'}\n")
        print("| nginx | wall s | CPU s | goal: wall, CPU | |\n|---|---|---|---|---|")
        for kind, port in ports.items():
            figures = rounds(args, port, scratch, hashes)
            goal = GOALS[kind]
            cells, good = [], True
            for place, name in enumerate(("wall", "cpu")):
                values = [figure[place] for figure in figures]
                median = statistics.median(values)
                cells.append(f"{median:.2f} [{min(values):.2f}..{max(values):.2f}]")
                good &= goal[name] is None or median <= goal[name]
            missed |= not good
            goals = f"{goal['wall']:g}, {goal['cpu'] or '-'}"
            print(f"| {kind} | {cells[0]} | {cells[1]} | {goals} | {'met' if good else 'missed'} |")
    return sys.exit(1) if missed and args.strict else None


if __name__ == "__main__":
    main()
