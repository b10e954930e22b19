"""Salad's queue worker, a program of theirs, kept running beside the server.

It asks the platform for jobs and posts each to our queue route. It is started when jobs can be
done, started anew when it ends, and ended last of all: SIGTERM makes it drop what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from typing import TYPE_CHECKING

from handler.health import Health
from handler.masking import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from handler.health import HealthReport

log = logging.getLogger("comfyfn.queue_worker")
LOOK_S = 0.1
SETTLE_S = 1.0
"""From our answer's last byte until the worker has told the queue."""
GRACE_S = 5.0
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
STEADY_S = 60.0
LONGEST_LINE = 4000
_LEVEL = re.compile(r"\blevel\"?\s*[=:]\s*\"?(\w+)", re.IGNORECASE)
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.ERROR,
}
_WORDS = {"trace": "debug", "warning": "warn", "fatal": "error"}


def worker_environment(inherited: Mapping[str, str], log_level: str) -> dict[str, str]:
    """Give the worker's environment: ours, with its log as loud as ours unless it says otherwise.

    Args:
        log_level: LOG_LEVEL; the worker ends at once at a word that it does not know.
    """
    word = _WORDS.get(log_level, log_level)
    # The name that it reads, and the one that the platform's pages have.
    return {"SALAD_LOG_LEVEL": word, "SALAD_QUEUE_WORKER_LOG_LEVEL": word, **inherited}


class QueueWorker:
    """The program, and what is to be known before it is started and ended.

    Args:
        health: of the handler.
        in_hand: how many of its jobs are not answered.
        backoff_s: waits before it is started anew, the last one for good.
    """

    def __init__(
        self,
        binary: Path,
        env: Mapping[str, str],
        *,
        health: Callable[[], HealthReport],
        in_hand: Callable[[], int],
        backoff_s: tuple[float, ...] = BACKOFF_S,
        settle_s: float = SETTLE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._binary = binary
        self._env = dict(env)
        self._health = health
        self._in_hand = in_hand
        self._backoff_s = backoff_s
        self._settle_s = settle_s
        self._grace_s = grace_s

    def __repr__(self) -> str:
        return f"<QueueWorker {self._binary}>"

    async def run(self) -> None:
        """Keep it running from when jobs can be done until no more are taken.

        Cancelled, it ends the program before it returns.
        """
        while not self._health().started:
            if self._over():
                return
            await asyncio.sleep(LOOK_S)
        keeping = asyncio.create_task(self._keep(), name="queue-worker")
        try:
            await self._until_idle()
            await asyncio.sleep(self._settle_s)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _until_idle(self) -> None:
        """Wait until the handler takes no more jobs, and all of the worker's are answered."""
        while True:
            if self._over() and not self._in_hand():
                return
            await asyncio.sleep(LOOK_S)

    def _over(self) -> bool:
        return self._health().health in (Health.DRAINING, Health.STOPPED)

    async def _keep(self) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            told = await self._once()
            if time.monotonic() - begun > STEADY_S:
                failures = 0
            wait_s = self._backoff_s[min(failures, len(self._backoff_s) - 1)]
            failures += 1
            log.error("the queue worker %s; it is started anew in %g s", told, wait_s)
            await asyncio.sleep(wait_s)

    async def _once(self) -> str:
        """Run it to its end; say how that was."""
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._binary),
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a signal of the terminal is ours to pass on
            )
        except OSError as error:
            return f"cannot be run: {error}"
        log.info("the queue worker runs (process %d)", process.pid)
        reading = asyncio.create_task(_tell_lines(process.stdout))
        try:
            await process.wait()
        finally:
            await self._end(process)
            with contextlib.suppress(TimeoutError):  # a child of its own may hold the pipe
                await asyncio.wait_for(reading, 1.0)
        return f"ended with status {process.returncode}"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            log.info("the queue worker is ended")
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self._grace_s)
            except TimeoutError:
                log.warning("the queue worker does not end; it is killed")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _tell_lines(stream: asyncio.StreamReader | None) -> None:
    assert stream is not None
    rest = b""
    while block := await stream.read(1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            _tell(line)
        if len(rest) > LONGEST_LINE:
            _tell(rest)
            rest = b""
    _tell(rest)


def _tell(raw: bytes) -> None:
    line = masked(raw[:LONGEST_LINE].decode(errors="replace").rstrip())
    if line:
        log.log(level_of(line), "%s", line)


def level_of(line: str) -> int:
    """Read how severe a line of the worker's is; what does not say it is told as it comes."""
    found = _LEVEL.search(line)
    return _LEVELS.get(found[1].lower(), logging.INFO) if found else logging.INFO
