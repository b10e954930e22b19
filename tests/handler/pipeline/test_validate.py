"""Received -> Validated."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import pytest
from models_here import FOLDERS, LOADERS
from worker import GRAPH, parts_in, received

from handler.engine.memory import NODES, MemoryEngine
from handler.errors import EngineDied, InvalidWorkflow, NoOutputNode, WorkflowFormatUi
from handler.models.records import Named
from handler.pipeline.validate import (
    LONGEST_ID,
    MOST_FAULTS,
    MOST_NODES,
    MOST_REFRESHED,
    validate,
)

MODELS = {
    "CheckpointLoader": {
        "input": {"required": {"name": [["a.safetensors"], {}]}},
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "nodes",
    }
}


def with_model(name):
    loader = {"class_type": "CheckpointLoader", "inputs": {"name": name}}
    return {"1": loader, "2": GRAPH["2"]}


async def test_a_good_graph_passes_with_its_media(tmp_path):
    """Media inputs are found for the next stage."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "http://h/a.png"}},
        "2": GRAPH["2"],
    }
    validated = await validate(received(graph), parts_in(tmp_path))

    assert validated.graph is validated.request.prompt
    assert [(item.node_id, item.input, item.wanted) for item in validated.media] == [
        ("1", "image", "image")
    ]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "a list"),
        ("{}", "a text"),
        (None, "null"),
        ({"1": 5}, "a number"),
        ({"prompt": GRAPH}, "one level too deep"),
        ({"1": {"inputs": {}}}, 'no "class_type"'),
    ],
)
async def test_what_is_no_graph_is_named(tmp_path, prompt, said):
    """In words, not as a type error."""
    with pytest.raises(InvalidWorkflow, match=said) as caught:
        await validate(received(prompt), parts_in(tmp_path))
    assert caught.value.location == "prompt"


async def test_the_editors_own_format_is_told_by_name(tmp_path):
    """With what to choose instead."""
    saved = {"nodes": [], "links": [], "version": 0.4}
    with pytest.raises(WorkflowFormatUi) as caught:
        await validate(received(saved), parts_in(tmp_path))
    assert "Export (API)" in caught.value.hint


async def test_all_faults_are_told_and_the_first_is_the_error(tmp_path):
    """One round trip for all of them."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "T"}},
    }
    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(graph), parts_in(tmp_path))

    error = caught.value
    assert len(error.details) == 3
    assert "(and 2 more)" in error.message
    assert (error.node_id, error.class_type) == ("1", "EmptyImage")
    assert error.location.startswith("prompt.1")
    assert error.details[-1]["node_id"] == "2"


async def test_a_graph_that_saves_nothing_is_refused(tmp_path):
    """In the words that comfyui-api's clients match."""
    with pytest.raises(NoOutputNode, match='"filename_prefix" input, such as "SaveImage"'):
        await validate(received({"1": GRAPH["1"]}), parts_in(tmp_path))


async def test_a_model_that_was_added_since_the_boot_is_found(tmp_path):
    """The class is read anew before a request is refused for it."""
    parts = parts_in(tmp_path, nodes={**NODES, **MODELS})
    assert isinstance(parts.engine, MemoryEngine)
    entry = {**MODELS["CheckpointLoader"], "input": {"required": {"name": [["a", "b"], {}]}}}
    parts.engine.learn("CheckpointLoader", entry)

    await validate(received(with_model("b")), parts)


async def test_a_class_that_was_added_since_the_boot_is_found(tmp_path):
    """A node pack may load late."""
    parts = parts_in(tmp_path)
    parts.engine.learn("CheckpointLoader", MODELS["CheckpointLoader"])

    await validate(received(with_model("a.safetensors")), parts)


async def test_a_model_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    """Still after the second look."""
    parts = parts_in(tmp_path, nodes={**NODES, **MODELS})
    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(with_model("b.safetensors")), parts)
    assert caught.value.details[0]["type"] == "value_not_in_list"


class Deaf(MemoryEngine):
    """An engine that does not answer a second look."""

    async def refresh_class(self, class_type):
        raise EngineDied("gone")


async def test_a_second_look_that_fails_leaves_what_is_known(tmp_path):
    """The request is judged by the declarations of the boot."""
    parts = parts_in(tmp_path)
    engine = Deaf(tmp_path, nodes={**NODES, **MODELS})
    with pytest.raises(InvalidWorkflow):
        await validate(received(with_model("b")), replace(parts, engine=engine))


async def test_a_media_input_is_no_choice_from_a_list(tmp_path):
    """Its value is a URL; the list has what lies in the folder."""
    listed = {
        **NODES["LoadImage"],
        "input": {"required": {"image": [["x.png"], {"image_upload": True}]}},
    }
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "http://h/a.png"}},
        "2": GRAPH["2"],
    }
    parts = parts_in(tmp_path, nodes={**NODES, "LoadImage": listed})

    assert (await validate(received(graph), parts)).media


class Asked(MemoryEngine):
    """An engine that counts second looks."""

    def __init__(self, *arguments, **keys):
        super().__init__(*arguments, **keys)
        self.looks = []

    async def refresh_class(self, class_type):
        self.looks.append(class_type)
        await super().refresh_class(class_type)


async def longest_stall(work):
    """Await some work, and give the longest time in which nothing else got its turn."""
    longest, last = 0.0, time.monotonic()
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest, task.exception()


def unknown(count):
    nodes = {str(n): {"class_type": f"Nope{n}", "inputs": {}} for n in range(count)}
    return {**nodes, "save": GRAPH["2"]}


@pytest.mark.parametrize(
    ("count", "looks"), [(MOST_REFRESHED, MOST_REFRESHED), (MOST_REFRESHED + 1, 0), (5000, 0)]
)
async def test_second_looks_are_few(tmp_path, count, looks):
    """Each is a request to the engine: a graph of unknown classes is no flood of them."""
    engine = Asked(tmp_path)
    parts, begun = replace(parts_in(tmp_path), engine=engine), time.monotonic()
    with pytest.raises(InvalidWorkflow, match=r"and [0-9]+ more"):
        await validate(received(unknown(count)), parts)

    assert len(engine.looks) == looks
    assert time.monotonic() - begun < 5


async def test_the_answer_tells_the_first_faults_and_their_number(tmp_path):
    """Thousands of them help nobody."""
    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(unknown(5000)), parts_in(tmp_path))

    assert len(caught.value.details) == MOST_FAULTS
    assert int(re.search(r"\(and (\d+) more\)", caught.value.message)[1]) >= 4999


async def test_more_nodes_than_any_graph_has_are_refused(tmp_path):
    """The number is told."""
    with pytest.raises(InvalidWorkflow, match=f"has {MOST_NODES + 1} nodes") as caught:
        await validate(received(unknown(MOST_NODES)), parts_in(tmp_path))

    assert (caught.value.location, caught.value.details) == ("prompt", None)


async def test_an_endless_node_id_is_refused(tmp_path):
    """Every event and every output would carry it."""
    parts = parts_in(tmp_path)
    good, bad = ({"n" * n: GRAPH["1"], **GRAPH} for n in (LONGEST_ID, LONGEST_ID + 1))
    await validate(received(good), parts)
    with pytest.raises(InvalidWorkflow, match=f"more than {LONGEST_ID} characters"):
        await validate(received(bad), parts)


@pytest.mark.parametrize("count", [MOST_NODES - 1, 2 * MOST_NODES])
async def test_a_large_bad_graph_holds_nobody_up(tmp_path, count):
    """It is checked aside while others are served."""
    stall, error = await longest_stall(validate(received(unknown(count)), parts_in(tmp_path)))

    assert isinstance(error, InvalidWorkflow)
    assert stall < 2


class Embedded(MemoryEngine):
    """One that says it is the embedded engine."""

    kind = "embedded"


@pytest.mark.parametrize(
    ("engine", "said"), [(MemoryEngine, "install the node pack"), (Embedded, "set COMFY_HOME")]
)
async def test_a_class_that_is_not_there_is_told_by_the_kind_of_engine(tmp_path, engine, said):
    """No node pack would bring ComfyUI's own model nodes to the embedded one."""
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}, "2": GRAPH["2"]}
    parts = replace(parts_in(tmp_path), engine=engine(tmp_path))
    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(graph), parts)

    assert said in caught.value.hint
    assert said in caught.value.details[0]["hint"]
    assert caught.value.blame == "image"


def models_in(home, *catalogue):
    named = {name: one for one in catalogue for name in one.names}
    nodes = {**NODES, **LOADERS}
    return parts_in(home, nodes=nodes, model_folders=FOLDERS, catalogue=named)


def loading(class_type, **inputs):
    return {"1": {"class_type": class_type, "inputs": inputs}, "2": GRAPH["2"]}


@pytest.mark.parametrize("value", ["https://h.example/a", "s3://b/k", "/models/a.pt"])
async def test_urls_of_models_are_no_faults(tmp_path, value):
    """They are for the stage that fetches."""
    validated = await validate(
        received(loading("LoraLoader", lora_name=value)), models_in(tmp_path)
    )

    (want,) = validated.models
    assert (want.value, want.folders, want.listed) == (value, ("loras",), False)
    assert validated.media == []


async def test_a_model_that_came_after_the_boot_is_seen(tmp_path):
    """By a file name, whose class is then read anew."""
    parts = models_in(tmp_path)
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "late.pt").touch()

    validated = await validate(received(loading("LoraLoader", lora_name="late.pt")), parts)

    assert [want.listed for want in validated.models] == [True]


async def test_lists_and_choices_are_compared_as_of_one_moment(tmp_path):
    """Files that came since the boot do not lead a URL to another folder."""
    parts = models_in(tmp_path)
    await parts.models.listings()
    for folder in ("loras", "odd_ones"):
        (tmp_path / "models" / folder).mkdir(parents=True)
        (tmp_path / "models" / folder / f"{folder}.pt").touch()

    validated = await validate(received(loading("OddLoader", thing="https://h.example/a")), parts)

    assert validated.models[0].folders == ("odd_ones",)


async def test_names_of_the_catalogue_pass_and_are_suggested(tmp_path):
    """For inputs of their folder only."""
    sdxl = Named(names=("sdxl-base",), urls=("u",), folder="checkpoints", filename="x.safetensors")
    parts = models_in(tmp_path, sdxl)
    validated = await validate(received(loading("CheckpointLoader", ckpt_name="sdxl-base")), parts)
    assert validated.models[0].value == "sdxl-base"

    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(loading("CheckpointLoader", ckpt_name="sdxl-bass")), parts)
    assert caught.value.details[0]["choices_near"] == ["sdxl-base"]
    assert "sdxl-base" in caught.value.hint
    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(loading("LoraLoader", lora_name="sdxl-bass")), parts)
    assert caught.value.details[0]["choices_near"] == []


async def test_a_name_that_is_listed_and_in_the_catalogue_is_suggested_once(tmp_path):
    """The manifest brought it before."""
    named = Named(names=("late.pt",), urls=("u",), folder="loras", filename="late.pt")
    parts = models_in(tmp_path, named)
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "late.pt").touch()

    with pytest.raises(InvalidWorkflow) as caught:
        await validate(received(loading("LoraLoader", lora_name="lat.pt")), parts)
    assert caught.value.details[0]["choices_near"] == ["late.pt"]
