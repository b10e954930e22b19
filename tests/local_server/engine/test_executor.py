"""What one prompt does, seen by a client; the order of messages is in test_replay.py."""

from __future__ import annotations

import asyncio
from typing import Any

EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255},
}
SLOW = {"seconds": 60, "steps": 6000}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def save(source: str, prefix: str = "x") -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def last(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind, data = entry["status"]["messages"][-1]
    return kind, data


async def test_a_node_that_raises_ends_the_run(client: Any) -> None:
    """The error names the node, the exception and the inputs; its message ends in a newline."""
    graph = {"1": EMPTY, "2": node("TestRaise", image=["1", 0], message="no"), "3": save("2")}
    kind, data = last(await client.run(graph))

    assert kind == "execution_error"
    assert data["node_id"] == "2"
    assert data["node_type"] == "TestRaise"
    assert data["executed"] == ["1"]
    assert data["exception_message"] == "no\n"
    assert data["exception_type"] == "local_server.engine.nodes.faults.NodeFaultError"
    assert data["current_inputs"]["message"] == ["no"]
    assert data["current_inputs"]["image"][0].startswith("[[[[")
    assert any("fault_raise" in line for line in data["traceback"])


async def test_hidden_inputs_are_told_with_an_error(client: Any) -> None:
    """A node that is given the graph shows it among its inputs."""
    graph = {"1": EMPTY, "2": save("1", "../x")}
    entry = await client.run(graph, extra_data={"extra_pnginfo": {"a": 1}})
    kind, data = last(entry)

    assert kind == "execution_error"
    assert data["exception_type"] == "Exception"
    assert set(data["current_inputs"]) == {"images", "filename_prefix", "prompt", "extra_pnginfo"}
    assert data["current_inputs"]["extra_pnginfo"] == ["{'a': 1}"]


async def test_newer_nodes_do_not_show_hidden_inputs(client: Any) -> None:
    """Only the inputs that the graph gives are told with their errors."""
    blend = node("ImageBlend", image1=["1", 0], image2=["1", 0], blend_factor=1, blend_mode="?")
    _, data = last(await client.run({"1": EMPTY, "2": blend, "3": save("2")}))

    assert data["exception_message"] == "Unsupported blend mode: ?\n"
    assert data["current_inputs"]["blend_factor"] == [1.0]
    assert set(data["current_inputs"]) == {"image1", "image2", "blend_factor", "blend_mode"}


async def test_too_little_memory_is_told_with_a_hint(client: Any) -> None:
    """The exception has torch's name, and the message a second part."""
    graph = {"1": EMPTY, "2": node("TestOutOfMemory", image=["1", 0]), "3": save("2")}
    _, data = last(await client.run(graph))

    assert data["exception_type"] == "torch.OutOfMemoryError"
    assert data["exception_message"].startswith("Allocation on device 0 would exceed")
    assert "too little memory" in data["exception_message"]


async def test_outputs_before_a_failure_are_kept(client: Any) -> None:
    """A failed run has the outputs of the nodes that ran."""
    graph = {"1": EMPTY, "2": save("1"), "3": node("TestRaise", image=["1", 0], message="")}
    entry = await client.run({**graph, "4": save("3")})

    assert entry["status"]["status_str"] == "error"
    assert entry["outputs"]["2"]["images"][0]["filename"] == "x_00001_.png"


async def test_finished_nodes_of_a_failed_run_stay_cached(client: Any) -> None:
    """The next run of the same graph begins where it failed."""
    graph = {"1": EMPTY, "2": node("TestRaise", image=["1", 0], message="no"), "3": save("2")}
    await client.run(graph)
    entry = await client.run(graph)

    assert entry["status"]["messages"][1][1]["nodes"] == ["1"]


async def test_an_interrupt_takes_effect_at_the_next_step(client: Any) -> None:
    """The run ends as an interrupt of the node that counts steps."""
    socket = await client.connect("c")
    graph = {"1": EMPTY, "2": node("TestSleep", image=["1", 0], **SLOW), "3": save("2")}
    prompt_id = await client.submit(graph, "c")
    await socket.until_type("progress")
    await client.post("/interrupt", {"prompt_id": prompt_id})
    await socket.until_end(prompt_id)
    kind, data = last(await client.ended(prompt_id))

    assert kind == "execution_interrupted"
    assert (data["node_id"], data["node_type"], data["executed"]) == ("2", "TestSleep", ["1"])
    assert socket.of("execution_interrupted") == [data]


async def test_an_interrupt_of_a_silent_node_waits_for_the_next_node(client: Any) -> None:
    """The next node is named, having done nothing."""
    socket = await client.connect("c")
    sleep = node("TestSleep", image=["1", 0], seconds=0.2, steps=0)
    prompt_id = await client.submit({"1": EMPTY, "2": sleep, "3": save("2")}, "c")
    await socket.until(lambda message: message.get("data", {}).get("node") == "2")
    await client.post("/interrupt", {})
    entry = await client.ended(prompt_id)
    kind, data = last(entry)

    assert kind == "execution_interrupted"
    assert (data["node_id"], data["executed"]) == ("3", ["1", "2"])
    assert entry["outputs"] == {}


async def test_an_interrupt_during_the_last_node_has_no_effect(client: Any) -> None:
    """The run is a success, and the next run is not hit either."""
    noise = node("TestNoise", width=1500, height=1500, seed=1)
    prompt_id = await client.submit({"1": noise, "2": save("1")})
    async with asyncio.timeout(10):
        while not (client.engine.folders.output / "x_00001_.png").exists():
            await asyncio.sleep(0.001)
    await client.post("/interrupt", {"prompt_id": prompt_id})
    assert await client.get(f"/history/{prompt_id}") == {}
    entries = [await client.ended(prompt_id), await client.run({"1": EMPTY, "2": save("1")})]

    assert [entry["status"]["status_str"] for entry in entries] == ["success", "success"]
    assert (await client.get("/_test/state"))["interrupts"] == 1


async def test_an_interrupt_of_another_prompt_is_ignored(client: Any) -> None:
    """Only the running prompt's id, or none, hits."""
    socket = await client.connect("c")
    sleep = node("TestSleep", image=["1", 0], seconds=0.2, steps=20)
    prompt_id = await client.submit({"1": EMPTY, "2": sleep, "3": save("2")}, "c")
    await socket.until_type("progress")
    await client.post("/interrupt", {"prompt_id": "another"})
    entry = await client.ended(prompt_id)

    assert entry["status"]["status_str"] == "success"
    assert (await client.get("/_test/state"))["interrupts"] == 0


async def test_steps_are_counted_in_order(client: Any) -> None:
    """Each step tells the state of all nodes, then the progress of the one."""
    socket = await client.connect("c")
    sleep = node("TestSleep", image=["1", 0], seconds=0, steps=3)
    prompt_id = await client.submit({"1": EMPTY, "2": sleep, "3": save("2")}, "c")
    await socket.until_end(prompt_id)

    assert [(told["value"], told["max"]) for told in socket.of("progress")] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    first = socket.types().index("progress")
    assert socket.types()[first - 1] == "progress_state"
    state = socket.messages[first - 1]["data"]["nodes"]["2"]
    assert (state["state"], state["value"], state["max"]) == ("running", 1, 3)


async def test_lists_of_items_run_a_node_once_for_each(client: Any) -> None:
    """RebatchImages makes a list; the nodes after it run on each item and join their outputs."""
    batch = {**EMPTY, "inputs": {**EMPTY["inputs"], "batch_size": 5}}
    graph = {
        "1": batch,
        "2": node("RebatchImages", images=["1", 0], batch_size=2),
        "3": node("ImageInvert", image=["2", 0]),
        "4": save("3"),
        "5": node("GetImageSize", image=["3", 0]),
        "6": node("PreviewAny", source=["5", 2]),
    }
    entry = await client.run(graph)

    assert len(entry["outputs"]["4"]["images"]) == 5
    assert entry["outputs"]["6"]["text"] == ["2", "2", "1"]


async def test_a_link_to_an_unknown_input_is_given_to_the_node(client: Any) -> None:
    """As in ComfyUI it fails there; an unknown literal is left out."""
    literal = node("ImageInvert", image=["1", 0], bogus=1)
    link = node("ImageInvert", image=["1", 0], bogus=["1", 0])
    good = await client.run({"1": EMPTY, "2": literal, "3": save("2")})
    bad = await client.run({"1": EMPTY, "2": link, "3": save("2")})

    assert good["status"]["status_str"] == "success"
    assert "unexpected keyword argument 'bogus'" in last(bad)[1]["exception_message"]


async def test_the_lru_cache_remembers_the_prompt_before_the_last(start: Any) -> None:
    """With --cache-lru another prompt in between does not drop results; by default it does."""
    client = await start(cache="lru", cache_size=50)
    graphs = [{"1": EMPTY, "2": save("1", prefix)} for prefix in ("a", "b", "a")]
    *_, entry = [await client.run(graph) for graph in graphs]

    assert entry["status"]["messages"][1][1]["nodes"] == ["1", "2"]


async def test_without_a_cache_every_node_runs(start: Any) -> None:
    """With --cache-none the same prompt runs anew."""
    client = await start(cache="none")
    graph = {"1": EMPTY, "2": save("1")}
    await client.run(graph)
    entry = await client.run(graph)

    assert entry["status"]["messages"][1][1]["nodes"] == []
    assert entry["outputs"]["2"]["images"][0]["filename"] == "x_00002_.png"
