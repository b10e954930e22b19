"""The handler's own loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from adapters.runpod_loop import HandlerLoop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[HandlerLoop]:
    home = HandlerLoop()
    yield home
    home.close()


async def _where() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def test_work_is_done_there(home: HandlerLoop) -> None:
    """From another loop, and from none."""
    assert await home.call(_where()) == "handler"
    assert await asyncio.to_thread(lambda: home.wait(_where(), 5)) == "handler"


async def test_cancelling_a_call_cancels_its_work(home: HandlerLoop) -> None:
    """The platform's stop reaches the job."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    calling = asyncio.ensure_future(home.call(work()))
    await asyncio.to_thread(begun.wait, 5)
    calling.cancel()

    assert await asyncio.to_thread(ended.wait, 5)


def test_a_wait_has_a_limit(home: HandlerLoop) -> None:
    """What is late is cancelled."""
    with pytest.raises(TimeoutError):
        home.wait(asyncio.sleep(60), 0.01)


def test_an_error_comes_back_as_it_is(home: HandlerLoop) -> None:
    """With its type."""

    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        home.wait(fail(), 5)


def test_what_still_runs_is_ended_with_it() -> None:
    """No thread and no task is left."""
    home = HandlerLoop()
    left = home.submit(asyncio.sleep(60))
    home.close()

    assert left.cancelled()
    assert "handler" not in [thread.name for thread in threading.enumerate()]
