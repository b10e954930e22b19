"""The HTTP switches; those of the sockets are in test_sockets.py."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest


@pytest.mark.parametrize("route", ["drop_sockets", "freeze_sockets", "refuse_ws", "freeze"])
async def test_without_the_switch_there_are_no_faults(start: Any, route: str) -> None:
    """Neither the routes nor the nodes exist."""
    client = await start(test_faults=False)
    async with client.session.post(f"/_test/{route}", json={}) as answer:
        assert answer.status == 405
    async with client.session.get("/_test/state") as answer:
        assert answer.status == 404
    assert not [name for name in await client.get("/object_info") if name.startswith("Test")]


async def test_the_state_counts(client: Any) -> None:
    """Interrupts, prompts and sockets are counted."""
    await client.connect("c")
    await client.run({"1": {"class_type": "TestText", "inputs": {"text": "a"}}})
    await client.post("/interrupt", {})

    assert await client.get("/_test/state") == {"interrupts": 1, "prompts_run": 1, "sockets": 1}


async def test_the_event_loop_can_be_frozen(client: Any) -> None:
    """The switch is answered, and some request after it has to wait for the time asked."""
    await client.post("/_test/freeze", {"seconds": 0.3})
    waits = [0.0]
    async with asyncio.timeout(5):
        while max(waits) < 0.3:
            started = time.monotonic()
            await client.get("/prompt")
            await asyncio.sleep(0.001)
            waits.append(time.monotonic() - started)

    assert waits[1] < 0.3
