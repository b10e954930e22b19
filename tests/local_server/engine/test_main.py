"""The engine as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from local_server.engine.__main__ import serve
from local_server.engine.config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRAPH = {
    "1": {"class_type": "TestNoise", "inputs": {"width": 8, "height": 8, "seed": 1}},
    "2": {"class_type": "TestExit", "inputs": {"image": ["1", 0], "code": 7}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def reached(session: aiohttp.ClientSession, url: str) -> bool:
    """Wait until a server answers."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(url) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)


class Process:
    """A child process and its address."""

    def __init__(self, child: asyncio.subprocess.Process, port: int) -> None:
        self.child = child
        self.url = f"http://127.0.0.1:{port}"

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            assert await reached(session, f"{self.url}/system_stats")

    async def ends(self) -> int:
        async with asyncio.timeout(10):
            return await self.child.wait()

    async def output(self) -> str:
        assert self.child.stdout is not None
        return (await self.child.stdout.read()).decode()


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Any]:
    """Start engines as child processes."""
    started: list[Process] = []

    async def run_one(*flags: str) -> Process:
        port = free_port()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local_server.engine", "--port", str(port), "--cpu"),
            *("--base-directory", str(tmp_path), *flags),
            cwd=Path(__file__).parents[3],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        started.append(Process(child, port))
        return started[-1]

    yield run_one
    for process in started:
        if process.child.returncode is None:
            process.child.kill()
            await process.child.wait()
        await process.output()
        process.child._transport.close()  # type: ignore[attr-defined]


async def test_the_engine_serves_until_it_is_cancelled(tmp_path: Path) -> None:
    """Inside another program it can be started and stopped, on several addresses."""
    port = free_port()
    config = replace(EngineConfig.below(tmp_path), port=port, listen=("127.0.0.1", "127.0.0.2"))
    task = asyncio.create_task(serve(config))
    async with aiohttp.ClientSession() as session:
        for address in config.listen:
            assert await reached(session, f"http://{address}:{port}/prompt")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_at_once(run: Any, number: signal.Signals) -> None:
    """Nothing is drained: the process is gone within a quarter of a second."""
    process = await run()
    await process.ready()
    started = time.monotonic()
    process.child.send_signal(number)
    code = await process.ends()
    took = time.monotonic() - started
    text = await process.output()

    assert code == -number
    assert took < 2
    assert "comfyfn's embedded engine, not ComfyUI" in text
    assert "Starting server" in text


async def test_a_node_can_take_the_process_down(run: Any) -> None:
    """TestExit ends it with the status it is given."""
    process = await run("--test-faults")
    await process.ready()
    async with aiohttp.ClientSession(process.url) as session:
        async with session.post("/prompt", json={"prompt": GRAPH}) as answer:
            assert answer.status == 200
        assert await process.ends() == 7


async def test_the_start_can_fail(run: Any) -> None:
    """With --test-exit-at-boot it ends before it listens."""
    process = await run("--test-faults", "--test-exit-at-boot", "3")

    assert await process.ends() == 3
    assert "Starting server" not in await process.output()


async def test_the_start_can_take_long(run: Any) -> None:
    """With --test-boot-seconds the port is closed until then."""
    started = time.monotonic()
    process = await run("--test-faults", "--test-boot-seconds", "1")
    await process.ready()

    assert time.monotonic() - started >= 1
