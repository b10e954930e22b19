"""Ended prompts do not stay in the engine's history."""

from __future__ import annotations

import asyncio

from engine_stub import stub_engine
from worker import until

from handler.engine.history import FORGET_BATCH, HistoryCleaner


async def test_ended_prompts_are_forgotten_in_batches():
    """At once where many end, a little later where few do."""
    async with stub_engine() as (stub, client):
        history = HistoryCleaner(client)
        for number in range(2 * FORGET_BATCH + 1):
            history.forget_later(f"p{number}")
        await until(lambda: stub.posted("/history"))
        first = stub.posted("/history")[0]["delete"]
        assert first[0] == "p0"
        assert len(first) < 2 * FORGET_BATCH
        await until(lambda: sum(len(b["delete"]) for b in stub.posted("/history")) > len(first))
        assert repr(history) == "<HistoryCleaner 0 to forget>"
        await history.close()


async def test_an_engine_that_cannot_forget_is_no_fault():
    """It may be gone, or be another one by then."""
    async with stub_engine() as (stub, client):
        stub.refuse = {"POST /history": 404}
        history = HistoryCleaner(client)
        history.forget_later("p")
        await until(lambda: stub.posted("/history"))
        await history.close()


async def test_after_its_close_nothing_is_sent():
    """Runs that end while the server stops leave no timer behind."""
    async with stub_engine() as (stub, client):
        history = HistoryCleaner(client)
        history.forget_later("before")
        await history.close()
        history.forget_later("after")
        await asyncio.sleep(0)
        assert (history._timer.cancelled(), stub.posts) == (True, [])
