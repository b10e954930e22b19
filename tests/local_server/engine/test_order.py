from __future__ import annotations

from typing import Any

import pytest

from local_server.engine.order import Schedule


def graph(**links: str) -> dict[str, Any]:
    """Build a graph from `node="ab"`: the nodes it takes its inputs from."""
    return {
        node: {"inputs": {f"in{i}": [source, 0] for i, source in enumerate(sources)}}
        for node, sources in links.items()
    }


def order(nodes: dict[str, Any], outputs: str, cached: str = "") -> str:
    schedule = Schedule(nodes, outputs, cached.__contains__, str.isupper)
    ran = ""
    while schedule:
        node = schedule.pick()
        ran += node
        schedule.done(node)
    return ran


def test_inputs_run_first_and_nothing_that_is_not_needed() -> None:
    """Only what the outputs need runs, each node once."""
    assert order(graph(a="", b="a", c="a", D="bc", x="a", Y="x"), "D") in ("abcD", "acbD")


def test_outputs_run_as_soon_as_they_can() -> None:
    """An output, and what leads to one, is preferred to the rest."""
    assert order(graph(a="", b="a", c="b", D="c", E="a"), "DE") == "aEbcD"


def test_cached_nodes_do_not_run_unless_they_are_outputs() -> None:
    """What feeds only cached nodes is left out; a cached output is told again."""
    nodes = graph(a="", b="a", C="b")

    assert order(nodes, "C", cached="b") == "C"
    assert order(nodes, "C", cached="abC") == "C"


def test_nodes_that_wait_for_each_other_are_found() -> None:
    """Validation refuses cycles; one that comes through ends the run."""
    schedule = Schedule(graph(a="b", b="a"), "a", lambda node: False, lambda node: False)

    with pytest.raises(RuntimeError, match="cycle"):
        schedule.pick()
    assert repr(schedule) == "Schedule(2 nodes left)"
