"""An outbox as a process of its own: `outbox_process.py FOLDER URL COUNT`.

Posts COUNT letters to URL, says `posted`, and lives until SIGTERM, upon which it drains and says
how many letters are left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from receiver import SECRET

from handler.inputs.address import AddressPolicy
from handler.outbox.outbox import Outbox
from handler.outbox.records import Letter, Terms
from handler.outbox.sending import Sender

TERMS = Terms(first_wait_s=0.05, longest_wait_s=0.2, watch_s=0.1, timeout_s=10)


async def main(folder: Path, url: str, count: int) -> None:
    sender = Sender(AddressPolicy("127.0.0.1"), secret=SECRET)
    outbox = Outbox(folder, sender, secret=SECRET, terms=TERMS)
    await outbox.open()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for number in range(count):
        await outbox.post(
            Letter(url=url, body=b'{"n": %d}' % number, message_id=f"job-{number}", kind="x")
        )
    sys.stdout.write("posted\n")
    sys.stdout.flush()
    await stop.wait()
    sys.stdout.write(f"left {await outbox.drain(10)}\n")
    await outbox.close()


def start(folder: Path, url: str, count: int) -> subprocess.Popen[str]:
    """Run it, and wait until everything is posted."""
    here = Path(__file__).parent
    env = {
        **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
    }
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), url, str(count)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "posted\n"
    return process


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
