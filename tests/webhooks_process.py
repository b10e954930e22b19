"""Webhooks as a process of their own: `webhooks_process.py FOLDER URL COUNT WHAT`.

Promises COUNT jobs with `webhook_v2` URL; where WHAT is `complete`, completes them, too. Says
`done`, and lives on until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from posting import opened

from handler.payload import parse_payload
from handler.webhooks import Webhooks
from handler.wire import Answer


async def main(folder: Path, url: str, count: int, what: str) -> None:
    async with opened(folder / "outbox") as outbox:

        async def opened_already() -> object:
            return outbox

        webhooks = Webhooks(opened_already, folder)
        request = parse_payload({"prompt": {"1": {}}, "webhook_v2": url})
        for number in range(count):
            promised = await webhooks.promise(f"job-{number}", f"uid-{number}", request)
            assert promised is not None
            if what == "complete":
                answer = Answer(f"job-{number}", {"id": f"job-{number}"}, [], {})
                assert await webhooks.complete(promised, answer) == {"webhook_v2": "posted"}
        sys.stdout.write("done\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def start(folder: Path, url: str, count: int, what: str) -> subprocess.Popen[str]:
    """Run it, and wait until it is done."""
    here = Path(__file__).parent
    env = {
        **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
    }
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), url, str(count), what],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
