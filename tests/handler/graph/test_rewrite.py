"""The graph as it is queued."""

from __future__ import annotations

import copy

import pytest

from handler.graph.object_info import ObjectInfo
from handler.graph.rewrite import (
    RUN_INPUT,
    isolate_outputs,
    node_order,
    node_title,
    output_prefix,
    safe_leaf,
)


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("x", "f/id_x"),
        ("sub/dir/x", "f/sub/dir/id_x"),
        ("sub/", "f/sub/id"),
        ("../../x", "f/id_x"),
        ("a/../b/x", "f/a/b/id_x"),
        ("/etc/passwd", "f/etc/id_passwd"),
        ("C:\\temp\\x", "f/temp/id_x"),
        ("..\\..\\x", "f/id_x"),
        (".. /x", "f/id_x"),
        ("...//x", "f/id_x"),
        ("..", "f/id"),
        ("/", "f/id"),
        ("a\0b/..\x1f/x", "f/ab/id_x"),
        ("%date:yyyy-MM-dd%/x", "f/%date:yyyy-MM-dd%/id_x"),
        ("%date:yyyy/MM/dd%", "f/id_%date:yyyy/MM/dd%"),
        ("s/%KSampler.seed%_%width%", "f/s/id_%KSampler.seed%_%width%"),
        ("%a/../../../b%", "f/id_%a/b%"),
        ("100%/x", "f/100%/id_x"),
        ("ünï x", "f/id_ünï x"),
    ],
)
def test_prefixes_go_below_the_folder(prefix, path):
    """Subfolders and tokens stay, ways out of the folder do not."""
    assert output_prefix(prefix, folder="f", request_id="id") == path


def test_without_prepending_the_id_takes_the_prefixs_place():
    """As the contract has it, subfolders included."""
    assert output_prefix("sub/x", folder="f", request_id="id", prepend=False) == "f/id"


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        ("6f1c2f2e-0b7a-4f0e-9c39-000000000000", "6f1c2f2e-0b7a-4f0e-9c39-000000000000"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a b/ü%d%", "a_b_d_"),
        ("..", "job"),
        ("", "job"),
        ("-rf", "rf"),
        ("x" * 500, "x" * 100),
        ("ü" * 10**6, "_"),
        ("a.", "a"),
    ],
)
def test_any_text_makes_a_safe_leaf(text, leaf):
    """Of plain characters, never empty, never hidden, at most 100 long."""
    assert safe_leaf(text) == leaf


def test_outputs_are_led_aside(info, graphs):
    """Prefixes get folder and id, previews get the mark that keeps the cache from answering."""
    graph = graphs["two_outputs_and_preview"]
    before = copy.deepcopy(graph)
    isolated, outputs = isolate_outputs(graph, info, folder="f", request_id="id")

    assert outputs == ["2", "3"]
    assert isolated["2"]["inputs"] == {"filename_prefix": "f/sub/dir/id_x", "images": ["1", 0]}
    assert isolated["3"]["inputs"] == {RUN_INPUT: "f", "images": ["1", 0]}
    assert isolated["1"] is graph["1"]
    assert graph == before


def test_a_node_told_not_to_save_is_led_aside_and_is_no_output(packs):
    """The prefix is rewritten in both cases."""
    inputs = {"filename_prefix": "x", "save_output": False}
    graph = {"1": {"class_type": "VHS_VideoCombine", "inputs": inputs}}
    isolated, outputs = isolate_outputs(graph, ObjectInfo(packs), folder="f", request_id="id")

    assert isolated["1"]["inputs"] == {"filename_prefix": "f/id_x", "save_output": False}
    assert outputs == []


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        *(
            {"filename_prefix": prefix}
            for prefix in ("", None, 5, [], ["9", 0], {"__value__": ["9", 0]}, {"__value__": ""})
        ),
        {"filename_prefix": {"__value__": {"__value__": "../x"}}},
        {"filename_prefix": {"a": "../x"}},
    ],
    ids=str,
)
def test_a_prefix_that_is_not_known_is_the_classs_own(info, inputs):
    """A linked one is known at run time only, and would lead out of the folder."""
    graph = {"1": {"class_type": "SaveImage", "inputs": inputs}}
    isolated, outputs = isolate_outputs(graph, info, folder="f", request_id="id")

    assert isolated["1"]["inputs"] == {"filename_prefix": "f/id_ComfyUI"}
    assert outputs == ["1"]


def test_a_classs_own_prefix_keeps_its_subfolder(info):
    """SaveAudio writes below `audio/` when nothing else is said."""
    graph = {"1": {"class_type": "SaveAudio", "inputs": {"filename_prefix": ["9", 0]}}}
    isolated, _ = isolate_outputs(graph, info, folder="f", request_id="id")

    assert isolated["1"]["inputs"] == {"filename_prefix": "f/audio/id_ComfyUI"}


@pytest.mark.parametrize("value", ["../x", "x"])
def test_a_wrapped_prefix_is_led_aside_as_a_bare_one(info, value):
    """`__value__` is the engine's way to say that something is no link."""
    inputs = {"filename_prefix": {"__value__": value}}
    graph = {"1": {"class_type": "SaveImage", "inputs": inputs}}
    isolated, _ = isolate_outputs(graph, info, folder="f", request_id="id")

    assert isolated["1"]["inputs"] == {"filename_prefix": "f/id_x"}


def test_a_linked_prefix_of_an_unknown_class_is_led_aside(info):
    """What takes it cannot be asked."""
    graph = {"1": {"class_type": "Unknown", "inputs": {"filename_prefix": ["9", 0]}}}
    isolated, _ = isolate_outputs(graph, info, folder="f", request_id="id")

    assert isolated["1"]["inputs"] == {"filename_prefix": "f/id_ComfyUI"}


def test_a_prefix_that_is_read_by_stays(packs):
    """VideoHelperSuite's SelectLatest looks for files by it."""
    graph = {"1": {"class_type": "VHS_SelectLatest", "inputs": {"filename_prefix": "output/a"}}}

    assert isolate_outputs(graph, ObjectInfo(packs), folder="f", request_id="id") == (graph, [])


def test_a_prefix_of_any_other_node_is_led_aside(info):
    """A class need not be an output node, nor be known, to write by a prefix."""
    graph = {"1": {"class_type": "Unknown", "inputs": {"filename_prefix": "x"}, "_meta": {}}}
    isolated, outputs = isolate_outputs(graph, info, folder="f", request_id="id", prepend=False)

    assert isolated == {
        "1": {"class_type": "Unknown", "inputs": {"filename_prefix": "f/id"}, "_meta": {}}
    }
    assert outputs == []


def test_answers_keep_the_graphs_order():
    """Ids stay as the caller wrote them, numbers or not."""
    graph = {"10": {"class_type": "B"}, "9": {"class_type": "A"}, "x": {"class_type": "C"}}

    assert node_order(graph) == ["10", "9", "x"]
    assert node_title(graph, "9") == "A"
