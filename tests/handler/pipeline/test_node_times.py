"""How long each node of a run took."""

from __future__ import annotations

import pytest

from handler.engine.events import Gone, Interrupted, NodeProgress, NodeStarted, Started, Succeeded
from handler.metrics import Metrics
from handler.pipeline.node_times import NodeTimes

GRAPH = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Sample", "inputs": {}},
    "3": {"class_type": "Sample", "inputs": {}},
}


def told(*events):
    metrics = Metrics()
    times = NodeTimes(GRAPH, metrics)
    for event, now in events:
        times.feed(event, now)
    return metrics


def test_a_node_lasts_until_the_next_one_begins_or_the_run_ends():
    """Times of a class are added up."""
    metrics = told(
        (Started(0), 9.0),
        (NodeStarted("1"), 10.0),
        (NodeStarted("2"), 10.5),
        (NodeProgress("2", 1, 2), 11.0),
        (NodeStarted("3"), 12.5),
        (Succeeded(0), 13.5),
    )

    assert metrics.nodes.values == {("Load",): 1, ("Sample",): 2}
    assert metrics.node_s.values == {("Load",): 0.5, ("Sample",): 3.0}


@pytest.mark.parametrize("end", [Interrupted(None, None), Gone()])
def test_a_node_that_was_stopped_counts_once(end):
    """Its time was spent."""
    metrics = told((NodeStarted("2"), 1.0), (end, 3.0), (end, 9.0))

    assert metrics.node_s.values == {("Sample",): 2.0}


def test_a_node_that_the_graph_does_not_have_is_other():
    """Names come from the graph alone."""
    assert told((NodeStarted("99"), 1.0), (Gone(), 2.0)).nodes.values == {("other",): 1}
