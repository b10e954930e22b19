"""How the SDK's loop is ended; with the real SDK in tests/platforms/test_runpod_ends.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from adapters.runpod_ending import SETTLE_S, Ending, leave

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """What the SDK does: it asks for the concurrency, polls, and runs jobs.

    Attributes:
        jobs: in hand.
        polls: how many polls were begun.
    """

    def __init__(self, limit_s: float = 5.0, concurrency: int = 1) -> None:
        self.jobs = 0
        self.polls = 0
        self.asked = 0
        self.ending = Ending(lambda: self.jobs, limit_s, concurrency)

    async def take(self) -> None:
        while True:
            self.asked = self.ending.concurrency(1)
            await asyncio.sleep(0)
            self.polls += 1
            await asyncio.Event().wait()

    async def job(self, seconds: float) -> None:
        self.jobs += 1
        try:
            self.ending.watch(asyncio.current_task())
            await asyncio.sleep(seconds)
        finally:
            self.jobs -= 1


@contextlib.contextmanager
def handlers_kept():
    """Put the signals' handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(loop: Loop, begin: Callable[[], None], jobs: list[float]) -> float:
    """Run it as the SDK does until it is ended, and give the seconds that took."""

    async def main() -> None:
        taking = asyncio.create_task(loop.take())
        running = [asyncio.create_task(loop.job(seconds)) for seconds in jobs]
        asyncio.get_running_loop().call_later(0.05, begin)
        await asyncio.gather(taking, *running)

    begun = time.monotonic()
    with handlers_kept(), pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    return time.monotonic() - begun - 0.05


def test_idle_it_ends_in_a_moment() -> None:
    """The poll is cancelled, which closes its connection."""
    loop = Loop()
    seconds = run(loop, lambda: os.kill(os.getpid(), signal.SIGTERM), [])

    assert SETTLE_S <= seconds < 0.5
    assert (loop.asked, loop.polls, loop.ending.status) == (1, 1, 0)
    assert "begun=True" in repr(loop.ending)


def test_busy_it_ends_with_the_last_job() -> None:
    """As soon as that is over."""
    loop = Loop(concurrency=3)
    seconds = run(loop, loop.ending.begin, [0.2, 0.4])

    assert 0.3 <= seconds < 0.8
    assert loop.asked == 3


def test_jobs_have_a_limit() -> None:
    """What is not over by then is cut short."""
    loop = Loop(limit_s=0.2)

    assert run(loop, loop.ending.begin, [30]) < 1.5
    assert loop.ending.left_s() == 0.0


def test_asked_again_it_ends_at_once() -> None:
    """A second signal waits for nothing."""
    loop = Loop(limit_s=30)

    def twice() -> None:
        loop.ending.asked()
        loop.ending.asked()

    assert run(loop, twice, [30]) < 0.5
    assert loop.ending.left_s() == 0.0


def test_our_own_reasons_do_not_add_up_to_haste() -> None:
    """Two jobs that ask for another worker are not a second signal; the worst status counts."""
    loop = Loop()

    def both() -> None:
        loop.ending.begin(0)
        loop.ending.begin(1)
        loop.ending.begin(0)

    assert run(loop, both, [0.3]) >= 0.2
    assert loop.ending.status == 1


def test_on_the_way_down_no_poll_is_begun() -> None:
    """With a job in hand the SDK is made to wait, without one its poll is cancelled."""
    loop = Loop()

    async def main() -> None:
        loop.ending.concurrency(1)
        loop.jobs = 1
        loop.ending.begin()
        assert loop.ending.concurrency(1) == 2
        loop.jobs = 0
        loop.ending.concurrency(1)
        await asyncio.sleep(0)
        raise AssertionError("it polls")

    with handlers_kept(), pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_it_is_ended_from_afar() -> None:
    """The handler's thread sees that the engine is given up."""
    loop = Loop()

    def from_afar() -> None:
        threading.Thread(target=loop.ending.begin_from_afar, args=(1,)).start()

    run(loop, from_afar, [])
    assert loop.ending.status == 1


def test_before_there_is_a_loop_only_the_status_is_kept() -> None:
    """A boot that fails has the SDK's own end."""
    loop = Loop()
    loop.ending.begin_from_afar(1)
    loop.ending.begin(1)

    assert (loop.ending.begun, loop.ending.status) == (False, 1)
    assert loop.ending.left_s() == 5.0


def test_a_signal_between_the_sdks_handler_and_ours_counts() -> None:
    """The SDK's was told, and would wait for its polls."""

    class Scaler:
        def is_alive(self) -> bool:
            return False

        def handle_shutdown(self, *_: object) -> None:
            """Take a signal."""

    loop = Loop()
    with handlers_kept():
        signal.signal(signal.SIGTERM, Scaler().handle_shutdown)

        async def main() -> None:
            await loop.take()

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    assert loop.polls == 0


def test_before_the_sdks_loop_a_signal_leaves() -> None:
    """By an exception, so that what was begun is put away."""
    with pytest.raises(SystemExit) as told:
        leave(signal.SIGTERM, None)
    assert told.value.code == 0
