"""RunPod's own client in a process of its own: it changes the logging of whoever imports it.

As a program, `python runpod_client.py BASE_URL`: a JSON call a line in, a JSON answer a line out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Client:
    """`runpod.Endpoint(...)` and its jobs, by id."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Call a method: `run` gives an id; what begins with `job.` has one first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments, named]) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        if "raised" in told:
            raise AssertionError(told["raised"])
        return told["gave"]


@contextlib.contextmanager
def client(base: str) -> Iterator[Client]:
    """Run a client of the API below an URL."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "NO_PROXY": "*",
    }
    process = subprocess.Popen(
        [sys.executable, __file__, base],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Client(process)
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(10)
        process.stdout.close()  # type: ignore[union-attr]


def main(base: str) -> None:
    """Answer calls until there are no more."""
    import runpod

    runpod.api_key, runpod.endpoint_url_base = "rpa_of_nobody", base
    endpoint = runpod.Endpoint("mine")
    jobs: dict[str, Any] = {}
    for line in sys.stdin:
        name, arguments, named = json.loads(line)
        try:
            if name == "run":
                job = endpoint.run(*arguments)
                jobs[job.job_id] = job
                gave: Any = job.job_id
            elif name.startswith("job."):
                gave = getattr(jobs[arguments[0]], name[4:])(*arguments[1:], **named)
                gave = list(gave) if name == "job.stream" else gave
            else:
                gave = getattr(endpoint, name)(*arguments, **named)
            told = {"gave": gave}
        except Exception as fault:
            told = {"raised": f"{type(fault).__name__}: {fault}"}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
