"""Models and media are brought at once, and the graph names what is there."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from models_here import FOLDERS, LOADERS
from sources.host import hosting, safetensors
from worker import GRAPH, parts_in, received

from handler.engine.base import EngineState
from handler.engine.memory import NODES, PIXEL
from handler.errors import HandlerError, InvalidWorkflow
from handler.pipeline.fetch_models import prepare, with_names
from handler.pipeline.run import JobFolder
from handler.pipeline.validate import validate

BLOCKS = 5


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
def parts(tmp_path):
    return parts_in(tmp_path, nodes={**NODES, **LOADERS}, model_folders=FOLDERS)


def graph_of(*nodes):
    """Give a graph of (class, inputs), of which an output needs every one."""
    loaders = {str(i): {"class_type": c, "inputs": inputs} for i, (c, inputs) in enumerate(nodes)}
    savers = {
        f"save{i}": {**GRAPH["2"], "inputs": {"images": [i, 0], "filename_prefix": "x"}}
        for i in loaders
    }
    return {**loaders, **savers}


async def prepared(parts, graph, **keys):
    job = received(graph, **keys)
    return await prepare(await validate(job, parts), job.job, parts), job.job


async def test_models_and_media_come_at_once(tmp_path, host, parts):
    """Each waits for the other, and neither for ever: the graph that was sent is left alone."""
    asked = {"model": asyncio.Event(), "medium": asyncio.Event()}

    def waiting(me, other):
        async def pause(_sent):
            asked[me].set()
            await asked[other].wait()

        return pause

    model = host.put("/m.safetensors", safetensors(100), pause=waiting("model", "medium"))
    image = host.put("/i.png", PIXEL, pause=waiting("medium", "model"))
    graph = graph_of(("LoraLoader", {"lora_name": model}), ("LoadImage", {"image": image}))

    done, _ = await prepared(parts, graph)

    name = done.graph["0"]["inputs"]["lora_name"]
    assert (tmp_path / "models" / "loras" / name).is_file()
    assert done.graph["1"]["inputs"]["image"].endswith(".png")
    assert graph["0"]["inputs"]["lora_name"] == model
    assert done.output_nodes == ["save0", "save1"]


async def test_a_graph_of_many_models_does_not_take_all_files_of_the_process(host, parts):
    """A few at a time; the others have nothing open, and come in their turn."""
    open_before, most = len(os.listdir("/proc/self/fd")), 0

    def before(_):
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    urls = [host.put(f"/{n}.pt", b"%d" % n, before=before) for n in range(150)]

    graph, _ = await prepared(
        parts, graph_of(*(("CheckpointLoader", {"ckpt_name": url}) for url in urls))
    )

    names = {
        node["inputs"]["ckpt_name"]
        for node in graph.graph.values()
        if "ckpt_name" in node["inputs"]
    }
    assert len(names) == 150
    # A pin, a lock, a part and its note, a connection and its other end.
    assert most - open_before < 150 + 16 * 5


async def test_the_first_failure_stops_the_others(host, parts):
    """Nobody waits for what is of no use."""

    async def never(_sent):
        await asyncio.Event().wait()

    slow = host.put("/slow.safetensors", safetensors(100), pause=never)
    graph = graph_of(
        ("LoraLoader", {"lora_name": slow}),
        ("CheckpointLoader", {"ckpt_name": host.url("/gone")}),
        ("LoadImage", {"image": host.put("/i.png", PIXEL, pause=never)}),
    )

    async with asyncio.timeout(10):
        with pytest.raises(HandlerError, match="model for node 1") as caught:
            await prepared(parts, graph)
    assert caught.value.location == "prompt.1.inputs.ckpt_name"
    assert repr(parts.downloader) == "<Downloader 0 under way>"


async def test_progress_is_told_and_only_the_newest_is_kept(host, parts):
    """With node, input and bytes."""

    async def slowly(_sent):
        await asyncio.sleep(0.2)

    content = safetensors(BLOCKS * (64 << 10))
    url = host.put("/m.safetensors", content, pause=slowly)

    _, job = await prepared(parts, graph_of(("LoraLoader", {"lora_name": url})))

    told = [event.data for event in job._events if event.type == "download"]
    assert len(told) == 1
    assert (told[0]["node_id"], told[0]["input"]) == ("0", "lora_name")
    assert 0 < told[0]["done"] <= told[0]["total"] == len(content)


async def test_models_may_go_when_the_jobs_folder_goes(host, parts):
    """They are kept until then."""
    url = host.put("/m.safetensors", safetensors(100))
    _, job = await prepared(parts, graph_of(("LoraLoader", {"lora_name": url})))
    (entry,) = parts.models._store.entries()
    assert entry.pinned

    await JobFolder(job, parts).remove()

    assert not parts.models._store.entries()[0].pinned


async def test_a_name_that_vanished_meanwhile_is_a_fault_of_its_node(host, parts):
    """The graph is looked at once more, with the lists as they are then."""
    url = host.put("/m.safetensors", safetensors(100))
    job = received(graph_of(("LoraLoader", {"lora_name": url}), ("CheckpointLoader", {})))
    job.request.prompt["1"]["inputs"]["ckpt_name"] = host.put("/c.safetensors", safetensors(9))
    validated = await validate(job, parts)
    parts.engine.learn("Gone", {})
    asked = time.monotonic()

    async def forgotten(_sent):
        # The other model is there by now: its class loses its choices.
        while not await parts.engine.models_in("loras") and time.monotonic() - asked < 5:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        parts.engine.learn("LoraLoader", {**LOADERS["LoraLoader"], "input": {"required": {
            "lora_name": [["other.pt"]]}}})  # fmt: skip
        await parts.engine.refresh_class("LoraLoader")

    host.files["/c.safetensors"].pause = forgotten
    with pytest.raises(InvalidWorkflow, match="node 0") as caught:
        await prepare(validated, job.job, parts)
    assert caught.value.location == "prompt.0.inputs.lora_name"


async def test_an_engine_that_restarts_meanwhile_is_not_asked(host, parts):
    """The job goes on to wait for it, as jobs do whose media are being fetched."""
    url = host.put("/m.safetensors", safetensors(100))
    job = received(graph_of(("LoraLoader", {"lora_name": url})))
    validated = await validate(job, parts)
    parts.engine.enter(EngineState.RESTARTING, "a test")

    done = await prepare(validated, job.job, parts)

    assert done.graph["0"]["inputs"]["lora_name"] in (
        path.name for path in (parts.engine.files.input_root.parent / "models" / "loras").iterdir()
    )


async def test_names_go_where_the_values_were(parts):
    """In lists, objects and wrapped values; what does not change is not copied."""
    listings = {"loras": ["x.pt"]}
    url = "https://h.example/a.pt"
    graph = {
        "1": {
            "class_type": "PowerLoader",
            "inputs": {"a": {"lora": url, "on": 1}, "enabled": "no"},
        },
        "2": {"class_type": "LoraLoader", "inputs": {"lora_name": {"__value__": url}}},
        "3": {"class_type": "PowerLoader", "inputs": {}},
    }
    from handler.graph.model_inputs import model_inputs

    found = model_inputs(graph, await parts.engine.object_info(), {**listings, "loras": []})
    changed = with_names(graph, found, ["new.pt"] * len(found))

    assert changed["1"]["inputs"] == {"a": {"lora": "new.pt", "on": 1}, "enabled": "no"}
    assert changed["2"]["inputs"] == {"lora_name": {"__value__": "new.pt"}}
    assert changed["3"] is graph["3"]
    assert graph["1"]["inputs"]["a"]["lora"] == url
