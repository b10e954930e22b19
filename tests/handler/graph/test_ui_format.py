"""What is sent in place of an API-format graph."""

from __future__ import annotations

import pytest

from handler.graph.ui_format import describe_bad_graph, is_ui_format

NODE = {"class_type": "SaveImage", "inputs": {}}
UI_04 = {
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [{"id": 1, "type": "EmptyImage"}],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}
UI_1 = {
    "version": 1,
    "state": {"lastNodeId": 2},
    "nodes": [{"id": 1, "type": "EmptyImage"}],
    "links": [{"id": 1, "origin_id": 1, "target_id": 2}],
}


@pytest.mark.parametrize(
    "value",
    [UI_04, UI_1, {"nodes": [], "links": []}, {"last_node_id": 9, "nodes": [], "links": []}],
)
def test_what_save_writes_is_recognised(value):
    """Both schemas, also with nothing in them."""
    assert is_ui_format(value)
    assert '"Save"' in describe_bad_graph(value)


@pytest.mark.parametrize(
    "value",
    [{}, {"1": NODE}, {"nodes": NODE, "links": NODE}, {"nodes": {}}, [], None, "x", {"nodes": []}],
)
def test_other_values_are_not_of_the_ui_format(value):
    """A graph whose nodes are named `nodes` and `links` is still a graph."""
    assert not is_ui_format(value)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([], "not a list"),
        ("hello", "not a text"),
        ('{"1": {}}', "encoded twice"),
        (None, "not null"),
        (True, "not a boolean"),
        (5, "not a number"),
        (2.5, "not a number"),
        ({"prompt": {"1": NODE}}, 'under "prompt"'),
        ({"output": {"1": NODE}, "workflow": UI_04}, 'under "output"'),
        ({"workflow": {"1": NODE}}, 'under "workflow"'),
        ({"workflow": UI_1}, 'the graph under "workflow" is in the format of "Save"'),
        ({"workflow": UI_1, "prompt": {"a": 1}}, 'the graph under "workflow"'),
        ({"workflow": UI_1, "output": {"1": NODE}, "prompt": UI_1}, 'under "output"'),
        ({"prompt": UI_1}, 'the graph under "prompt" is in the format of "Save"'),
        ({"1": {"inputs": {}}}, 'node "1" has no "class_type"'),
        ({"1": {"class_type": 5, "inputs": {}}}, 'node "1" has no "class_type"'),
        ({"1": NODE, "2": [1]}, 'node "2" has to be an object, not a list'),
        ({"nodes": []}, 'node "nodes" has to be an object'),
        ({"1": {"class_type": "A", "inputs": []}}, '"inputs" of node "1"'),
    ],
)
def test_what_is_no_graph_is_described(value, part):
    """Each mistake has its sentence, with the key to send where there is one."""
    assert part in describe_bad_graph(value)


@pytest.mark.parametrize(
    "value", [{}, {"1": NODE}, {"prompt": NODE, "output": NODE}, {"1": {"class_type": "A"}}]
)
def test_graphs_have_no_description(value):
    """Node ids may be words, and `inputs` may be left out as far as shape goes."""
    assert describe_bad_graph(value) is None


def test_recorded_graphs_are_graphs(graphs):
    """All graphs that a real engine took pass."""
    assert [describe_bad_graph(graph) for graph in graphs.values()] == [None] * 14
