"""Faults of whole graphs."""

from __future__ import annotations

import copy
import random
import sys
import time

import orjson
import pytest

from handler.graph.check import MAX_SUGGESTIONS, check_graph, has_output_node
from handler.graph.media_inputs import media_inputs
from handler.graph.object_info import ObjectInfo
from handler.graph.rewrite import isolate_outputs
from handler.graph.ui_format import describe_bad_graph


def expected_of(scenario):
    return [[(kind, f"prompt.{where}") for kind, where in faults] for faults in scenario]


def told(faults):
    return [(fault.type, fault.location) for fault in faults]


SAMPLER, CKPT, STEPS = "3.inputs.sampler_name", "4.inputs.ckpt_name", "3.inputs.steps"
# The refused graphs of the recording, in its order; the accepted ones have no fault but where
# the engine drops an output in silence, or does not see what will fail.
SCENARIO_05 = [
    [("value_not_in_list", SAMPLER)],
    [("value_not_in_list", CKPT)],
    [("invalid_input_type", STEPS)],
    [("value_bigger_than_max", STEPS)],
    [("value_smaller_than_min", STEPS)],
    [("required_input_missing", "3.inputs.seed")],
    [("value_not_in_list", CKPT), ("invalid_input_type", STEPS), ("value_not_in_list", SAMPLER)],
    [("dangling_link", "2.inputs.image")],
    [("dangling_link", "2.inputs.image")],
    [("bad_linked_input", "2.inputs.image")],
    [("return_type_mismatch", "3.inputs.images")],
    [("literal_for_link", "2.inputs.image")],
    [("cycle", "2")],
    [("value_not_in_list", "1.inputs.image")],
    [("dangling_link", "4.inputs.images"), ("value_smaller_than_min", "5.inputs.width")],
    [("value_smaller_than_min", "5.inputs.width")],
    [],
    [],
    [],
    [],
]
SCENARIO_04 = [
    [("missing_node_type", "2")],
    [("missing_node_type", "9")],
    [("missing_class_type", "1")],
    [("invalid_node", "1")],
]


def test_every_recorded_refusal_has_its_fault(info, posted):
    """What a real engine refused with bad values is told, and what it took is not."""
    graphs = [graph for graph, _ in posted("05_validation_error_bad_value")]

    assert [told(check_graph(g, info, strict=True)) for g in graphs] == expected_of(SCENARIO_05)


def test_only_files_of_the_input_folder_are_left_to_the_engine(info, posted):
    """Without `strict` the same faults come but for the missing input file."""
    faults = [
        told(check_graph(graph, info)) for graph, _ in posted("05_validation_error_bad_value")
    ]
    expected = [[(kind, f"prompt.{where}") for kind, where in of] for of in SCENARIO_05]
    expected[13] = []

    assert faults == expected


def test_every_recorded_unknown_class_has_its_fault(info, posted):
    """Unknown and missing classes are faults anywhere, in the graph's order."""
    graphs = [graph for graph, _ in posted("04_validation_error_unknown_node")]

    assert [told(check_graph(g, info)) for g in graphs] == expected_of(SCENARIO_04)


def test_recorded_uploads_pass(info, posted):
    """Subfolders and `[temp]` names validate though they are not listed."""
    assert [check_graph(graph, info) for graph, _ in posted("15_upload")] == [[]] * 6


def test_graphs_without_output_have_no_output_node(info, posted):
    """They are no fault of a node."""
    for graph, _ in posted("06_prompt_no_outputs"):
        assert check_graph(graph, info) == []
        assert not has_output_node(graph, info)


def test_the_recorded_graphs_pass(info, graphs):
    """Only the literal where a link is due, and files that are not listed, are told."""
    usual = {name: told(check_graph(graph, info)) for name, graph in graphs.items()}
    strict = {name: told(check_graph(graph, info, strict=True)) for name, graph in graphs.items()}

    literal = [("literal_for_link", "prompt.1.inputs.image")]
    assert {k: v for k, v in usual.items() if v} == {"execution_error_literal_for_link": literal}
    assert {k: v for k, v in strict.items() if v} == {
        "execution_error_literal_for_link": literal,
        "execution_error_corrupt_image": [("value_not_in_list", "prompt.1.inputs.image")],
        "execution_error_after_first_output": [("value_not_in_list", "prompt.3.inputs.image")],
    }
    assert all(has_output_node(graph, info) for graph in graphs.values())


def test_a_missing_checkpoint_is_the_only_fault_of_its_graph(raw, graphs):
    """Where the engine has no checkpoint, that is told, and nothing else."""
    entry = {**raw["CheckpointLoaderSimple"], "input": {"required": {"ckpt_name": [[], {}]}}}
    info = ObjectInfo(raw)
    info.replace("CheckpointLoaderSimple", entry)
    (fault,) = check_graph(graphs["txt2img"], info)

    assert (fault.type, fault.blame) == ("value_not_in_list", "image")
    assert fault.received == "random_sd15.safetensors"


def test_a_wrong_sampler_gives_all_a_person_needs(info, graphs):
    """Node, title, input, value, place and what was perhaps meant."""
    node = graphs["txt2img"]["3"]
    bad = {**node, "inputs": {**node["inputs"], "sampler_name": "eular"}, "_meta": {"title": "Go"}}
    (fault,) = check_graph({**graphs["txt2img"], "3": bad}, info)

    assert fault.choices_near[0] == "euler"
    assert fault.public() == {
        "type": "value_not_in_list",
        "node_id": "3",
        "class_type": "KSampler",
        "title": "Go",
        "input": "sampler_name",
        "message": 'node 3 (Go): input "sampler_name" has no choice "eular"',
        "hint": fault.hint,
        "received": "eular",
        "choices_near": list(fault.choices_near),
        "location": "prompt.3.inputs.sampler_name",
        "blame": "caller",
    }
    assert fault.hint.startswith('nearest of 42 choices: "euler"')


@pytest.mark.parametrize(
    ("class_type", "near", "blame"),
    [
        ("KSamplr", "KSampler", "caller"),
        ("ksampler", "KSampler", "caller"),
        ("VAE Decode", "VAEDecode", "caller"),
        ("UltimateSDUpscale", None, "image"),
        ("NoSuchNode", None, "image"),
        ("Note", None, "caller"),
        ("PrimitiveNode", None, "caller"),
    ],
)
def test_an_unknown_class_is_the_images_fault_unless_one_is_near(info, class_type, near, blame):
    """A slip of the pen is the caller's, a missing node pack the image's."""
    if class_type in ("Note", "PrimitiveNode"):
        assert "editor only" in check_graph({"1": {"class_type": class_type}}, info)[0].hint
    (fault,) = check_graph({"1": {"class_type": class_type, "inputs": {}}}, info)

    assert (fault.type, fault.blame) == ("missing_node_type", blame)
    assert (fault.choices_near[0] if near else fault.choices_near or None) == near


def test_bad_values_of_nodes_that_no_output_needs_are_ignored(info, graphs):
    """The engine does not validate them, and they do not run."""
    stray = {"class_type": "EmptyImage", "inputs": {"width": "no", "height": ["77", 0]}}

    assert check_graph({**graphs["image_invert"], "9": stray}, info) == []


@pytest.mark.parametrize("inputs", [{}, {"extra": ["77", 0]}, {"extra": 5, "_meta": {}}])
def test_undeclared_inputs_pass(info, graphs, inputs):
    """Whatever they hold."""
    node = graphs["image_invert"]["1"]

    changed = {**graphs["image_invert"], "1": {**node, "inputs": {**node["inputs"], **inputs}}}
    assert check_graph(changed, info) == []


def test_null_is_fine_for_an_optional_input_only(packs):
    """Exporters write null for what is left open."""
    inputs = {"any": 1, "model": None, "hint": None, "both": None}
    faults = check_graph({"1": {"class_type": "AnySwitch", "inputs": inputs}}, ObjectInfo(packs))

    assert told(faults) == [("literal_for_link", "prompt.1.inputs.model")]


def test_an_expanding_input_is_never_missing_nor_wrong(packs):
    """Its real names are made while the graph is expanded."""
    info, model = ObjectInfo(packs), {"class_type": "Loop", "inputs": {}}
    for later in ({}, {"later": "x"}, {"later": []}, {"later.a": ["2", 0]}):
        inputs = {"any": 1, "model": ["2", 0], **later}
        graph = {"1": {"class_type": "AnySwitch", "inputs": inputs}, "2": model}

        assert check_graph(graph, info) == []


def test_a_long_circle_is_shortened(info):
    """The message names a dozen nodes at most."""
    graph = {
        str(n): {"class_type": "ImageInvert", "inputs": {"image": [str((n + 1) % 40), 0]}}
        for n in range(40)
    }
    graph["end"] = {"class_type": "PreviewImage", "inputs": {"images": ["0", 0]}}
    (fault,) = check_graph(graph, info)

    assert fault.type == "cycle"
    assert fault.message.count("->") == 12
    assert "… -> 0 need" in fault.message


@pytest.mark.parametrize(
    ("save_output", "counts"), [(True, True), (False, False), (None, False), (["3", 0], True)]
)
def test_a_node_told_not_to_save_is_no_output(packs, save_output, counts):
    """The contract's rule, with a link in place of the value taken as true."""
    node = {"class_type": "VHS_VideoCombine", "inputs": {"save_output": save_output}}

    assert has_output_node({"1": node}, ObjectInfo(packs)) is counts


def test_only_so_many_faults_get_suggestions(info):
    """A graph of many wrong names costs no more than one of a few."""
    node = {"class_type": "KSamplr", "inputs": {}}
    faults = check_graph({str(n): node for n in range(50)}, info)

    assert len(faults) == 50
    assert sum(bool(fault.choices_near) for fault in faults) == MAX_SUGGESTIONS


def junk(rng, depth=0):
    """Make a random JSON value, some of them near to links and nodes."""
    scalars = (None, True, 0, -1, 2.5, 2**70, 1e308, "", "1", "x", "euler", "a.png", "é\x00%")
    roll = rng.randrange(6 if depth < 3 else 3)
    if roll < 3:
        return rng.choice(scalars)
    if roll == 3:
        return [rng.choice("12345"), rng.choice((0, 1, 9, -1, True, 0.0))]
    if roll == 4:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {
        rng.choice(("inputs", "class_type", "__value__", "_meta", "title", "x")): junk(
            rng, depth + 1
        )
        for _ in range(rng.randrange(4))
    }


def junk_graph(rng, info):
    graph = {}
    for node_id in "12345"[: rng.randrange(6)]:
        class_type = rng.choice(info.classes)
        names = [*info.node(class_type).inputs, "filename_prefix", "extra"]
        inputs = {name: junk(rng) for name in names if rng.random() < 0.8}
        node = {"class_type": class_type, "inputs": inputs, "_meta": junk(rng)}
        for key in ("class_type", "inputs"):
            if rng.random() < 0.05:
                node[key] = junk(rng)
        graph[node_id] = junk(rng) if rng.random() < 0.05 else node
    return graph


def test_nothing_a_caller_sends_raises(raw, packs):
    """Random JSON in all places gives faults, each fit for an answer."""
    info = ObjectInfo({**raw, **packs})
    rng = random.Random(20251011)
    for _ in range(1500):
        graph = junk_graph(rng, info)
        before = repr(graph)
        for strict in (False, True):
            for fault in check_graph(graph, info, strict=strict):
                assert orjson.dumps(fault.public())
        has_output_node(graph, info)
        media_inputs(graph, info)
        isolate_outputs(graph, info, folder="f", request_id=str(junk(rng)))
        describe_bad_graph(graph)
        describe_bad_graph(junk(rng))

        assert repr(graph) == before


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer takes most of the time")
def test_a_check_takes_a_fraction_of_a_millisecond(info, graphs):
    """Ten nodes in under 0.15 ms, the best of many tries since the machine may be busy."""
    graph = {**graphs["txt2img"], **{str(n): graphs["txt2img"]["6"] for n in (50, 51, 52)}}
    best = 1.0
    for _ in range(300):
        start = time.perf_counter()
        check_graph(graph, info)
        best = min(best, time.perf_counter() - start)

    assert len(graph) == 10
    assert best < 0.00015


def test_a_slip_in_an_inputs_name_is_told(info, graphs):
    """The engine drops what no class declares; then the right one is missing."""
    graph = copy.deepcopy(graphs["image_invert"])
    node_id = next(i for i, node in graph.items() if node["class_type"] == "EmptyImage")
    graph[node_id]["inputs"]["widht"] = graph[node_id]["inputs"].pop("width")
    graph[node_id]["inputs"]["unlike"] = 5
    (fault,) = check_graph(graph, info)

    assert (fault.type, fault.input) == ("required_input_missing", "width")
    assert fault.hint.startswith('did you mean "width" by "widht"? it takes ')
