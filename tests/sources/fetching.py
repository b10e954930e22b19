"""A process that downloads a file, to be killed or held short: `python fetching.py URL TARGET`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from handler.errors import HandlerError
from handler.inputs.address import AddressPolicy
from handler.transfer.download import Downloader
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Limits, Wanted
from handler.transfer.threads import Threads


async def main(url: str, target: str, largest: int) -> dict[str, object]:
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    threads = Threads()
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    limits = Limits(min_piece=1 << 20, max_piece=8 << 20, spare_disk=0, backoff_s=0.001)
    downloader = Downloader(lambda _: source, threads=threads, limits=limits)
    try:
        got = await downloader.download(Wanted(url, Path(target)))
        return {"bytes": got.bytes, "resumed": got.resumed_bytes}
    except HandlerError as fault:
        return fault.envelope()
    finally:
        await downloader.close()


if __name__ == "__main__":
    told = asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    sys.stdout.write(json.dumps(told))
