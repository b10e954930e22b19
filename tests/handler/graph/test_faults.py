"""Faults as data."""

from __future__ import annotations

import json

import orjson
import pytest

from handler.graph.faults import Problem, placed, quoted, shown

GRAPH = {"3": {"class_type": "KSampler", "_meta": {"title": "Draw"}, "inputs": {}}, "4": None}


def test_a_problem_is_placed_at_node_and_input():
    """The message stands alone, the fields say where."""
    fault = placed(Problem("cycle", "round", received=1, near=("a",)), GRAPH, "3", "seed")

    assert fault.public() == {
        "type": "cycle",
        "node_id": "3",
        "class_type": "KSampler",
        "title": "Draw",
        "input": "seed",
        "message": "node 3 (Draw): round",
        "hint": None,
        "received": 1,
        "choices_near": ["a"],
        "location": "prompt.3.inputs.seed",
        "blame": "caller",
    }


def test_a_node_without_class_is_named_by_its_id():
    """The location ends with the node where no input is concerned."""
    fault = placed(Problem("invalid_node", "bad"), GRAPH, "4")

    assert (fault.class_type, fault.message, fault.location) == (None, "node 4: bad", "prompt.4")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (2**64 - 1, 2**64 - 1),
        (1.5, 1.5),
        (True, True),
        (None, None),
        ("x" * 201, "x" * 200 + "…"),
        (2**64, str(2**64)),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ([1, "a"], "[1, 'a']"),
    ],
)
def test_values_are_shown_as_json_can_hold_them(value, expected):
    """What orjson cannot write becomes a text, long texts are cut."""
    assert shown(value) == expected
    assert orjson.loads(orjson.dumps(shown(value))) == expected


def test_huge_values_are_shown_short():
    """An integer of a million digits and a list of a million items cost nothing."""
    assert shown(10**100_000) == "an integer of 332193 bits"
    assert len(shown([["x" * 1000] * 1000] * 1000)) <= 200


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "true"), (0, "0"), (None, "null"), ("a", '"a"'), ("b" * 99, None)],
)
def test_values_are_quoted_for_messages(value, text):
    """As JSON writes them; long texts are cut inside the quotes."""
    assert quoted(value) == (text or f'"{"b" * 80}…"')
    assert text is None or json.loads(quoted(value)) == value
