"""Row 69 of comfyui-api's own test suite: what the system webhook tells of one prompt."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import empty, fine, plain, recorded, save
from live import LiveServer
from receiver import SECRET, receiving

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = "random_sd15.safetensors"
ENGINES = [
    pytest.param("embedded"),
    pytest.param("comfyui", marks=[pytest.mark.comfyui, pytest.mark.timeout(300)]),
]


def counting() -> dict[str, Any]:
    """Give a graph of the embedded engine whose middle node counts steps, as a sampler does."""
    inputs = {"image": ["1", 0], "seconds": 0.2, "steps": 4}
    return {
        "1": empty(),
        "2": {"class_type": "TestSleep", "inputs": inputs},
        "3": save("2"),
    }


@pytest.mark.parametrize("engine", ENGINES)
async def test_row_69_one_prompt(tmp_path: Path, engine: str) -> None:
    """One `executed`, one `execution_success`, some `progress`, all by the request's id."""
    async with receiving() as receiver:
        server = LiveServer(
            tmp_path,
            engine,
            WEBHOOK_SECRET=SECRET,
            SYSTEM_WEBHOOK_URL=receiver.url("/system"),
            SYSTEM_WEBHOOK_EVENTS="all",
            SYSTEM_META_Region="eu",
            SALAD_MACHINE_ID="m1",
            WARMUP_PROMPT_JSON=json.dumps(plain()),
        )
        try:
            await asyncio.to_thread(server.start)
            graph = counting()
            if engine == "comfyui":
                if CHECKPOINT not in server.get("/models").json().get("checkpoints", []):
                    pytest.skip(f"this ComfyUI has no {CHECKPOINT}")
                graph = recorded("txt2img")
            body = fine(await asyncio.to_thread(server.prompt, graph, id="row69"))
        finally:
            if server.process is not None:
                await asyncio.to_thread(server.stop)

    assert body["id"] == "row69"
    told = [json.loads(post.body) for post in receiver.posts]
    by_name: dict[str, list[Any]] = {}
    for event in told:
        assert set(event) == {"event", "data", "metadata"}
        assert event["metadata"] == {"Region": "eu", "salad_machine_id": "m1"}
        by_name.setdefault(event["event"], []).append(event["data"])
    assert len(by_name["comfy.executed"]) == 1
    assert len(by_name["comfy.execution_success"]) == 1
    assert len(by_name["comfy.progress"]) >= 1
    for event in told:
        name = event["event"].removeprefix("comfy.")
        assert event["data"]["type"] == name
        if name != "status":
            assert event["data"]["data"]["prompt_id"] == "row69", event
    for post in receiver.posts:
        post.verify()
    assert len({post.id for post in receiver.posts}) == len(receiver.posts)
