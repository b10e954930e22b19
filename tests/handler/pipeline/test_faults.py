"""Whose fault a node's exception is."""

from __future__ import annotations

import pytest

from handler.engine.events import Failed
from handler.pipeline.faults import execution_failed

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
