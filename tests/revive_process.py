"""A worker that can be frozen: `revive_process.py`, its settings in the environment.

Each line that comes in is a command, and is answered by one line of JSON:

    run      runs a job: how many pictures came out, and who made them
    revive   what `Handler.revive` is for: seconds that it took
    engine   the engine's process id
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from adapters.worker import begin_worker
from handler.settings import Settings

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


async def run(handler):
    begun = time.monotonic()
    async with await handler.handle({"prompt": GRAPH}) as answer:
        told = await answer.json()
        seconds = time.monotonic() - begun
        return {"images": len(told["images"]), "seconds": seconds, "me": handler._ledger.instance}


async def revive(handler):
    begun = time.monotonic()
    await handler.revive()
    return {"seconds": time.monotonic() - begun}


async def engine(handler):
    return {"pid": handler._engine._process.pid}


async def main():
    begun = begin_worker(Settings.from_env())
    handler = begun.handler()
    try:
        await handler.start()
        answer = {"ready": True}
        while True:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            line = (await asyncio.to_thread(sys.stdin.readline)).strip()
            if not line:
                return
            answer = await {"run": run, "revive": revive, "engine": engine}[line](handler)
    finally:
        await handler.stop()
        begun.site.close()


if __name__ == "__main__":
    asyncio.run(main())
