from __future__ import annotations

import asyncio
from typing import Any

GRAPH = {
    "1": {"class_type": "TestText", "inputs": {"text": "a"}},
}


BROKEN = {"text": "a", "unknown": ["gone", 0]}


async def test_a_prompt_that_cannot_run_does_not_stop_the_others(client: Any) -> None:
    """What kills ComfyUI's worker fails only its prompt here."""
    bad = await client.run({"1": {"class_type": "TestText", "inputs": BROKEN}})
    good = await client.run(GRAPH)

    assert bad["status"] == {"status_str": "error", "completed": False, "messages": []}
    assert good["outputs"] == {"1": {"text": ["a"]}}


async def test_freed_memory_empties_the_cache(client: Any) -> None:
    """Unloading models does not, freeing memory does, before the next prompt."""
    cached = []
    for flags in ({}, {"unload_models": True}, {"free_memory": True}):
        await client.run(GRAPH)
        await client.post("/free", flags)
        entry = await client.run(GRAPH)
        cached.append(entry["status"]["messages"][1][1]["nodes"])

    assert cached == [["1"], ["1"], []]


async def test_the_engine_stops_while_a_prompt_runs(client: Any) -> None:
    """The running node is interrupted and the others do not begin."""
    sleep = {"image": ["1", 0], "seconds": 60, "steps": 6000}
    graph = {
        "1": {"class_type": "TestNoise", "inputs": {"width": 8, "height": 8, "seed": 1}},
        "2": {"class_type": "TestSleep", "inputs": sleep},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    socket = await client.connect("c")
    await client.submit(graph, "c")
    await client.submit(GRAPH, "c")
    await socket.until_type("progress")
    async with asyncio.timeout(5):
        await client.engine.stop()

    assert client.engine.executor.runs == 1
