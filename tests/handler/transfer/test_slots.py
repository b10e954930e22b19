"""Connections are shared out, and no host has them all."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from handler.transfer.slots import Slots, host_of


class Holders:
    """Who holds a connection of which host."""

    def __init__(self, slots):
        self.slots = slots
        self.held = []
        self.tasks = []
        self.go = asyncio.Event()

    async def _hold(self, url):
        async with self.slots.of(url):
            self.held.append(host_of(url))
            await self.go.wait()

    async def ask(self, url, times):
        self.tasks += [asyncio.create_task(self._hold(url)) for _ in range(times)]
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def holders():
    one = Holders(Slots(16, 12))
    yield one
    one.go.set()
    for task in one.tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert one.slots._gates == {}


async def test_a_host_leaves_connections_to_others(holders):
    """However many it is asked for; three files of four connections have all they want."""
    await holders.ask("https://slow.test:1/a", 20)
    await holders.ask("https://SLOW.test/b", 20)
    assert holders.held == ["slow.test"] * 12
    await holders.ask("https://good.test/m", 5)
    assert holders.held[12:] == ["good.test"] * 4


async def test_who_waits_in_vain_leaves_no_trace(holders):
    """A cancelled one gives its place to the next."""
    await holders.ask("https://slow.test/a", 14)
    for task in holders.tasks[12:]:
        task.cancel()
    holders.go.set()
    await asyncio.gather(*holders.tasks, return_exceptions=True)
    assert len(holders.held) == 12


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://A.test.:1/x", "a.test"), ("s3://b/k", "b"), ("/a", ""), ("http://[", "")],
)
def test_the_host_of_a_url(url, host):
    """The bucket, for stores; none for what is here."""
    assert host_of(url) == host
