"""Downloads that several wait for."""

from __future__ import annotations

import asyncio

import pytest

from handler.credentials import BearerAuth
from handler.errors import InputFailed
from handler.models.flights import Flights
from handler.models.records import ModelSource
from handler.transfer.records import Progress

SOURCE = ModelSource(url="https://host/m.pt")


async def test_the_same_is_brought_once(tmp_path):
    """Who comes later hears at once how far it is; the suffix makes no difference."""
    landed, began, go = [], [], asyncio.Event()
    flights = Flights(landed.append)
    news = []

    async def bring(flight):
        began.append(flight)
        flight.tell(Progress(1, 2, 3.0))
        await go.wait()

    async def join(source, listener=None):
        async with flights.aboard(source, bring, listener) as item:
            assert item is None
            assert not landed

    tasks = [asyncio.create_task(join(SOURCE))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(join(ModelSource(url=SOURCE.url, suffix=".pt"), news.append)))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)

    assert len(began) == 1
    assert news == [Progress(1, 2, 3.0)]
    assert landed == began


async def test_others_wait_for_the_same_url_or_content():
    """With other credentials, or by another URL."""
    go = asyncio.Event()
    flights = Flights(lambda _: None)
    first = ModelSource(url=SOURCE.url, sha256="ab")

    async def bring(_):
        await go.wait()

    async def join():
        async with flights.aboard(first, bring, None):
            pass

    task = asyncio.create_task(join())
    await asyncio.sleep(0)
    others = [
        ModelSource(url=SOURCE.url, auth=BearerAuth(token="t")),
        ModelSource(url="https://mirror/m.pt", sha256="ab"),
    ]
    waits = [asyncio.create_task(flights.wait(other)) for other in others]
    assert not await flights.wait(first)
    assert not await flights.wait(ModelSource(url="https://mirror/m.pt"))
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    go.set()
    assert await asyncio.gather(*waits) == [True, True]
    await task
    assert not await flights.wait(others[0])


async def test_the_last_to_leave_ends_it():
    """And a listener that raises ends nothing."""
    ended, landed = asyncio.Event(), []
    flights = Flights(landed.append)

    async def bring(flight):
        flight.tell(Progress(1, 2, 3.0))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def broken(_):
        raise RuntimeError

    async def join():
        async with flights.aboard(SOURCE, bring, broken):
            pass

    tasks = [asyncio.create_task(join()) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait({tasks[0]})
    assert not ended.is_set()
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    assert ended.is_set()
    assert len(landed) == 1


async def test_a_fault_is_raised_anew_for_each():
    """Each adds its own place."""
    flights = Flights(lambda _: None)

    async def bring(_):
        raise InputFailed("no such file")

    async def join():
        async with flights.aboard(SOURCE, bring, None):
            pass

    faults = await asyncio.gather(join(), join(), return_exceptions=True)
    assert faults[0] is not faults[1]
    with pytest.raises(InputFailed, match="no such file"):
        raise faults[0]
