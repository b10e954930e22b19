"""Many jobs with webhooks: memory, threads, descriptors and STATE_DIR are as before, at the end.

`benchmarks/bench.py webhooks` is the long form of it.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from behaviour.driving import assert_no_files_left, wait_until
from behaviour.graphs import picture
from behaviour.hooks import hook_env, letters, receiver, taken
from live import rss_mb

if TYPE_CHECKING:
    from live import LiveServer
    from receiver import Receiver

WARM, JOBS = 60, 200
CALLERS = 4
RETENTION_S = 3
GROWTH_MB = 20


def run(server: LiveServer, hook: Receiver, first: int, count: int) -> None:
    """Have jobs accepted, and wait until all of them are told."""

    def send(numbers: range) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
            for number in numbers:
                body = {"prompt": picture(), "id": f"job-{number}", "webhook_v2": hook.url()}
                answer = client.post("/prompt", json=body, timeout=60)
                assert answer.status_code == 202, answer.text

    with ThreadPoolExecutor(CALLERS) as pool:
        last = first + count
        list(pool.map(send, [range(first + n, last, CALLERS) for n in range(CALLERS)]))
    wait_until("all are told", lambda: len(taken(hook)) == last, 40)


def held(pid: int) -> tuple[int, int]:
    """Count the threads and the open files of a process."""
    threads, files = (len(list(Path(f"/proc/{pid}/{name}").iterdir())) for name in ("task", "fd"))
    return threads, files


def files_in(folder: Path) -> list[str]:
    """List the files below a folder, but for the names and signs of life of workers."""
    found = [f"{root}/{name}" for root, _, names in os.walk(folder) for name in names]
    return [path for path in found if "/instances/" not in path]


@pytest.mark.timeout(150)
def test_many_jobs_with_webhooks_leave_nothing(start_server, tmp_path: Path) -> None:
    """Each is told once, and what is kept of it goes when its time is over."""
    state = tmp_path / "state"
    kept = {"JOB_RETENTION_S": str(RETENTION_S), "OUTPUT_RETENTION_S": str(RETENTION_S)}
    server = start_server(**hook_env(state, **kept, LOG_LEVEL="info"))
    pid = server.process.pid
    with receiver() as hook:
        run(server, hook, 0, WARM)
        warm_mb, (threads, _) = rss_mb(pid), held(pid)
        run(server, hook, WARM, JOBS)
        told = taken(hook)
        assert told == {f"job-{number}": 1 for number in range(WARM + JOBS)}
        for post in hook.taken:
            post.verify()
    wait_until("no letter is left", lambda: not letters(state), 10)
    growth = rss_mb(pid) - warm_mb
    wait_until("only the worker's own signs are left", lambda: not files_in(state), 40)
    folders = [path for path, *_ in os.walk(state)]
    sys.stdout.write(f"{growth:+.1f} MiB, {held(pid)} threads and files, {len(folders)} folders\n")
    assert growth < GROWTH_MB
    assert held(pid)[0] <= threads + 8  # pools grow to their size
    wait_until("files are closed", lambda: held(pid)[1] < 60, 10)
    assert len(folders) < 20
    assert_no_files_left(server)
