"""Whose fault a node's exception is."""

from __future__ import annotations

import pytest

from handler.engine.base import GraphRefused
from handler.engine.events import Failed
from handler.engine.memory import NODES
from handler.graph.object_info import ObjectInfo
from handler.pipeline.faults import execution_failed, graph_refused

GRAPH = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "the sampler"}}}


@pytest.mark.parametrize(
    ("exception_type", "message", "cause", "blame", "retryable"),
    [
        ("torch.OutOfMemoryError", "Allocation on device", "out_of_memory", "platform", False),
        ("RuntimeError", "CUDA out of memory. Tried", "out_of_memory", "platform", False),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried",
         "out_of_memory", "platform", False),
        ("numpy._core._exceptions._ArrayMemoryError", "Unable; not enough memory",
         "out_of_memory", "platform", False),
        ("RuntimeError", "CUDA error: an illegal memory access", "gpu_fault", "platform", True),
        ("torch.AcceleratorError", "device-side assert triggered", "gpu_fault", "platform", True),
        ("RuntimeError", "unspecified launch failure", "gpu_fault", "platform", True),
        ("safetensors_rust.SafetensorError", "Error while deserializing header: HeaderTooLarge",
         "broken_model", "image", False),
        ("_pickle.UnpicklingError", "invalid load key, '<'.", "broken_model", "image", False),
        ("ModuleNotFoundError", "No module named 'insightface'", "missing_module", "image", False),
        ("ImportError", "cannot import name 'x'", "missing_module", "image", False),
        ("ValueError", "tile_size must be even", None, "caller", False),
        ("KeyError", "'room'", None, "caller", False),
    ],
)  # fmt: skip
def test_the_cause_tells_whose_fault_it_is(exception_type, message, cause, blame, retryable):
    """Type and text of the exception decide blame, retry and hint."""
    error = execution_failed(Failed("3", "KSampler", exception_type, message, ("a", "b")), GRAPH)

    assert error.details == {
        "exception_type": exception_type,
        "exception_message": message,
        "traceback": ["a", "b"],
        "cause": cause,
    }
    assert (error.blame, error.retryable, bool(error.hint)) == (blame, retryable, bool(cause))
    assert error.status == 500


def test_the_node_is_named():
    """Id, title, class and place; a message that is empty is made of the type."""
    error = execution_failed(Failed("3", "KSampler", "KeyError", ""), GRAPH)

    assert error.message == "node 3 (KSampler) failed: KeyError"
    assert (error.location, error.node_id, error.node_title) == ("prompt.3", "3", "the sampler")


def test_a_node_that_only_the_engine_knows_has_no_title():
    """Nodes expand to others while the graph runs."""
    assert execution_failed(Failed("3.1", "X", "E", "m"), GRAPH).node_title is None


NODE_ERRORS = {
    "1": {
        "errors": [
            {"type": "t", "message": "Value too small", "details": "width"},
            {"type": "t", "message": "Other", "details": ""},
        ],
        "class_type": "EmptyImage",
    },
    "2": {"errors": [], "class_type": "SaveImage"},
}
SIZED = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def test_a_graph_that_the_engine_refused_is_told_with_our_doubts():
    """Its words and ours; the place is where both point."""
    told = GraphRefused(400, {"message": "Prompt outputs failed validation"}, NODE_ERRORS)
    error = graph_refused(told, SIZED, ObjectInfo(NODES))

    assert error.message == (
        "Prompt outputs failed validation: node 1 (EmptyImage): Value too small: width, Other; "
        "node 2 (SaveImage): "
    )
    assert (error.node_id, error.class_type) == ("1", "EmptyImage")
    assert error.location == "prompt.1.inputs.width"
    assert error.details["doubts"][0]["type"] == "value_smaller_than_min"
    assert error.details["node_errors"] == NODE_ERRORS


def test_the_engines_words_are_told_without_what_is_secret_in_urls():
    """It quotes a value as it came, in several places; long ones are cut."""
    value = "http:/me:canary@host/?sig=canary"
    fault = {
        "message": "Value not in list",
        "details": f"thing: '{value}' not in []",
        "extra_info": {"received_value": [value, 3, value * 500]},
    }
    told = GraphRefused(
        400, {"message": "refused", "details": value}, {"3": {"errors": [fault], "class_type": "X"}}
    )

    error = graph_refused(told, GRAPH, ObjectInfo(NODES))

    assert "canary" not in str(error.envelope())
    assert "thing: 'http:/…@host/?sig=…' not in []" in error.message
    assert len(str(error.envelope())) < 10_000


@pytest.mark.parametrize(
    ("graph", "errors", "location"),
    [
        (SIZED, {}, "prompt.1.inputs.width"),
        ({**SIZED, "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}}},
         {"9": {"errors": None}}, "prompt.9"),
        ({**SIZED, "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}}},
         {}, "prompt"),
    ],
)  # fmt: skip
def test_a_refusal_without_a_node_stands_where_it_can(graph, errors, location):
    """Our doubt, the node that the engine named, or the whole graph."""
    told = GraphRefused(400, {"message": "No", "details": "because"}, errors)
    error = graph_refused(told, graph, ObjectInfo(NODES))

    assert error.location == location
    assert error.message == ("No: because" if not errors else "No: node 9 (None): ")
