"""Runs the programs a manifest needs: git, uv, apt-get, Python. The only module here that does.

Every program gets a process group of its own, which is ended whole: after a time limit, when the
task that waits for it is cancelled, and when the program left children behind.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.manifest.faults import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("comfyfn.manifest")

DEFAULT_TIMEOUT_S = 1800.0
TERMINATE_GRACE_S = 5.0
_PIPES_GRACE_S = 1.0
_TAIL_LINES = 40
_MOST_OUTPUT_BYTES = 64 << 20
_REASON = re.compile(r"\s*(error|fatal|E):", re.IGNORECASE)
_SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, slots=True)
class Done:
    """A program that ended.

    Attributes:
        output: what it wrote to stdout, and to stderr where that was wanted.
        tail: its last lines of both streams, without secrets of addresses.
    """

    returncode: int
    output: str
    tail: tuple[str, ...]
    seconds: float


async def run(
    command: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    grace_s: float = TERMINATE_GRACE_S,
    check: bool = True,
    both: bool = False,
    shown: int = logging.INFO,
) -> Done:
    """Run a program to its end; its lines go to the log as they come.

    Args:
        what: names the step in log and errors, as `clone of ComfyUI-Impact-Pack`.
        grace_s: from the wish to end until it is made to.
        check: whether an exit status other than 0 is an error.
        both: keep what it writes to stderr in `output` as well.
        shown: the level that its lines are logged with.

    Raises:
        InstallFailed: it cannot be run, took too long, or (`check`) ended with another status.
    """
    begun = time.monotonic()
    words = [str(word) for word in command]
    try:
        process = await _started(words, env, cwd, grace_s)
    except (OSError, ValueError) as error:
        raise InstallFailed(f"{what}: {words[0]} cannot be run: {error}") from error
    pump = _Pump(what, shown, both=both)
    with _exit_of(process) as exited:
        try:
            async with asyncio.timeout(timeout_s):
                await pump.drain(process, exited)
        except TimeoutError as error:
            raise InstallFailed(
                f"{what} took longer than {timeout_s:g} s", log_tail=list(pump.tail)
            ) from error
        finally:
            await _end_group(process, exited, grace_s)
    code = process.returncode if process.returncode is not None else -1
    done = Done(code, pump.output(), tuple(pump.tail), time.monotonic() - begun)
    if check and code != 0:
        raise failure(what, done)
    return done


async def _started(
    words: Sequence[str], env: Mapping[str, str], cwd: Path | None, grace_s: float
) -> asyncio.subprocess.Process:
    """Start a program. Cancelled meanwhile, it is ended with its group.

    asyncio would kill the program alone, and wait for the pipes of what that had started.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        process = await starting
        with _exit_of(process) as exited:
            await _end_group(process, exited, grace_s)
        raise


def failure(what: str, done: Done) -> InstallFailed:
    """Make the error of a program that failed: the last line that is called one, or the last."""
    lines = [line for line in done.tail if line.strip()]
    told = [line for line in lines if _REASON.match(line)] or lines
    said = told[-1] if told else "it said nothing"
    how = f"exit status {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
    return InstallFailed(f"{what} failed ({how}): {said.strip()}", log_tail=list(done.tail))


class _Pump:
    """Reads both streams to their ends."""

    def __init__(self, what: str, shown: int, *, both: bool) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._what = what
        self._shown = shown
        self._both = both
        self._output = bytearray()

    def output(self) -> str:
        """Give all of stdout."""
        return self._output.decode(errors="replace")

    async def drain(self, process: asyncio.subprocess.Process, exited: asyncio.Event) -> None:
        """Wait for the end; a grandchild that keeps a pipe open is not waited for."""
        assert process.stdout is not None
        assert process.stderr is not None
        streams = asyncio.gather(
            self._read(process.stdout, keep=True), self._read(process.stderr, keep=self._both)
        )
        try:
            await exited.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(streams), _PIPES_GRACE_S)
        finally:
            streams.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await streams

    async def _read(self, stream: asyncio.StreamReader, *, keep: bool) -> None:
        rest = b""
        while block := await stream.read(1 << 16):
            if keep and len(self._output) < _MOST_OUTPUT_BYTES:
                self._output += block
            *lines, rest = re.split(rb"[\r\n]+", rest + block)
            for line in lines:
                self._line(line)
            rest = rest[-4096:]
        self._line(rest)

    def _line(self, raw: bytes) -> None:
        line = without_secrets(raw.decode(errors="replace")).rstrip()
        if line:
            self.tail.append(line)
            log.log(self._shown, "%s | %s", self._what, line)


def without_secrets(text: str) -> str:
    """Blot out user and password of every address in a text."""
    return _SECRET.sub("...", text)


@contextlib.contextmanager
def _exit_of(process: asyncio.subprocess.Process) -> Iterator[asyncio.Event]:
    """Give an event that is set when the program itself ends.

    asyncio's own `wait` waits for the pipes as well, which a grandchild may keep open for ever.
    """
    exited = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        exited.set()
        yield exited
        return
    loop.add_reader(descriptor, exited.set)
    try:
        yield exited
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _end_group(
    process: asyncio.subprocess.Process, exited: asyncio.Event, grace_s: float
) -> None:
    """End the whole group: gently while the program itself lives, at once what it left behind."""
    try:
        if not exited.is_set():
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(exited.wait(), grace_s)
    finally:
        _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
