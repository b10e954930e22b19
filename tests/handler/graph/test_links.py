"""Links and what they reach."""

from __future__ import annotations

import pytest

from handler.graph.links import MAX_CIRCLES, as_link, inputs_of, needed_nodes, node_title, unwrapped
from handler.graph.object_info import ObjectInfo

CLASSES = {
    "Step": {"input": {"required": {"a": ["IMAGE"], "b": ["IMAGE"]}}, "output": ["IMAGE"]},
    "End": {"input": {"required": {"a": ["IMAGE"]}}, "output_node": True},
    "Grow": {"input": {"required": {"many": ["COMFY_AUTOGROW_V3"]}}, "output_node": True},
}


def needed(graph):
    info = ObjectInfo(CLASSES)
    specs = {node_id: info.node(node["class_type"]) for node_id, node in graph.items()}
    return needed_nodes(graph, {k: v for k, v in specs.items() if v})


def step(**inputs):
    return {"class_type": "Step", "inputs": inputs}


def end(source):
    return {"class_type": "End", "inputs": {"a": [source, 0]}}


@pytest.mark.parametrize(
    "value",
    [["1"], ["1", "0"], [1, 0], ["1", 0.0], ["1", 0, 0], [], "1", None, {"0": "1"}, ("1", 0)],
)
def test_only_a_text_and_an_integer_are_a_link(value):
    """Lists of other shapes are none."""
    assert as_link(value) is None


def test_a_link_gives_node_and_slot():
    """The engine's form of a link."""
    assert as_link(["3", 1]) == ("3", 1)


def test_only_what_outputs_need_is_reached():
    """A node beside the way, and one linked by an undeclared input, are not needed."""
    graph = {"1": step(), "2": step(), "3": step(a=["1", 0], other=["2", 0]), "4": end("3")}

    assert needed(graph) == ({"1", "3", "4"}, [])


def test_inputs_that_expand_are_followed():
    """`many.x0` belongs to the declared input `many`."""
    graph = {"1": step(), "2": {"class_type": "Grow", "inputs": {"many.x0": ["1", 0]}}}

    assert needed(graph)[0] == {"1", "2"}


def test_a_circle_is_told_as_a_path():
    """The path ends where it began; nodes before the circle are not on it."""
    graph = {"1": step(a=["2", 0]), "2": step(a=["1", 0]), "3": end("1")}

    assert needed(graph) == ({"1", "2", "3"}, [["1", "2", "1"]])


def test_a_node_may_need_itself_and_unneeded_circles_do_not_count():
    """A self-link is a circle of one."""
    graph = {"1": step(a=["1", 0]), "2": end("1"), "3": step(a=["3", 0])}

    assert needed(graph)[1] == [["1", "1"]]


def test_diamonds_are_no_circles():
    """Two ways to one node are fine."""
    graph = {"1": step(), "2": step(a=["1", 0], b=["1", 0]), "3": end("2"), "4": end("1")}

    assert needed(graph) == ({"1", "2", "3", "4"}, [])


def test_chains_longer_than_the_stack_are_followed():
    """Fifty thousand nodes in a row are walked in linear time."""
    graph = {str(n): step(a=[str(n - 1), 0], b=["1", 0]) for n in range(1, 50_000)}
    graph["end"] = end("49999")

    assert len(needed(graph)[0]) == 50_000


def test_a_tangle_gives_a_few_circles_only():
    """Each node links back to all; the list of circles stays short."""
    graph = {str(n): step(a=[str(n + 1), 0], b=["0", 0]) for n in range(100)}
    graph["end"] = end("0")

    assert len(needed(graph)[1]) == MAX_CIRCLES


@pytest.mark.parametrize(
    ("node", "title"),
    [
        ({"class_type": "A", "_meta": {"title": "Mine"}}, "Mine"),
        ({"class_type": "A", "_meta": {"title": ""}}, "A"),
        ({"class_type": "A", "_meta": {"title": 3}}, "A"),
        ({"class_type": "A", "_meta": "x"}, "A"),
        ({"class_type": None}, "7"),
        ("text", "7"),
    ],
)
def test_titles(node, title):
    """The title of the editor, else the class, else the id."""
    assert node_title({"7": node}, "7") == title


def test_a_node_that_is_not_there_is_called_by_its_id():
    """The engine may name nodes that the graph lacks."""
    assert node_title({}, "7") == "7"


def test_values_and_inputs_are_unwrapped_gently():
    """`__value__` hides lists; what is no node has no inputs."""
    assert unwrapped({"__value__": ["a", 1]}) == ["a", 1]
    assert unwrapped({"a": 1}) == {"a": 1}
    assert [inputs_of(n) for n in ({"inputs": {"a": 1}}, {"inputs": 3}, {}, None)] == [
        {"a": 1}, {}, {}, {},
    ]  # fmt: skip
