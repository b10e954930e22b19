"""Fetch files by the product's downloader and print wall and CPU seconds as JSON.

    python benchmarks/fetch_files.py FOLDER URL... [--profile]

CPU is that of this process (user and system), which holds nothing but the downloader.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import resource
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from handler.inputs.address import AddressPolicy  # noqa: E402
from handler.transfer.download import Downloader  # noqa: E402
from handler.transfer.http_source import HttpSource  # noqa: E402
from handler.transfer.records import Wanted  # noqa: E402
from handler.transfer.threads import Threads  # noqa: E402


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fetch(folder: Path, urls: list[str]) -> tuple[float, float]:
    """Fetch all at once, as a manifest does; wall and CPU seconds."""
    threads = Threads()
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    downloader = Downloader(lambda _: source, threads=threads)
    began, used = time.perf_counter(), cpu_s()
    wanted = [Wanted(url, folder / url.rpartition("/")[2]) for url in urls]
    await asyncio.gather(*map(downloader.download, wanted))
    figures = time.perf_counter() - began, cpu_s() - used
    await downloader.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--profile", action="store_true", help="print a profile to stderr")
    args = parser.parse_args()
    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    wall, cpu = asyncio.run(fetch(args.folder, args.urls))
    print(json.dumps({"wall_s": wall, "cpu_s": cpu}))
    if args.profile:
        profile.disable()
        sys.stdout = sys.stderr
        profile.print_stats("tottime")


if __name__ == "__main__":
    main()
