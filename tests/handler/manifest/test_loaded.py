"""Did the engine load the manifest's packs."""

from __future__ import annotations

import pytest

from handler.manifest.faults import InstallFailed
from handler.manifest.loaded import check_loaded
from handler.manifest.records import NodePack, RegistryName


def pack(name, **fields):
    return NodePack(name=name, source=RegistryName(name), **fields)


def fault(name, error="ValueError: no", hint=None):
    return {"name": name, "error": error, "hint": hint, "traceback": [f"trace of {name}"]}


def test_packs_that_are_there_are_fine():
    """By the log, or by a node class; one that nobody asked for may fail."""
    told = {"custom_nodes_s": {"Alpha": 0.1}, "custom_nodes_failed": [fault("other")]}
    packs = [pack("alpha"), pack("beta")]
    assert check_loaded(packs, told, ["nodes", "custom_nodes.beta"]) == []


def test_every_pack_that_failed_is_named():
    """With error, hint and the log's lines; also one that was never looked at."""
    told = {
        "custom_nodes_s": {"alpha": 0.1},
        "custom_nodes_failed": [fault("alpha"), fault("beta", "ImportError: cv2", "install it")],
    }
    with pytest.raises(InstallFailed) as caught:
        check_loaded([pack("alpha"), pack("beta"), pack("gamma")], told, [])
    error = caught.value
    assert error.message.splitlines() == [
        "node pack alpha does not load: ValueError: no",
        "node pack beta does not load: ImportError: cv2",
        "node pack gamma does not load: ComfyUI did not load it",
    ]
    assert "beta: install it" in error.hint
    assert error.details[1] == {"name": "beta", "error": "ImportError: cv2", "hint": "install it"}
    assert error.log_tail == ["trace of alpha", "trace of beta"]
    assert not error.retryable


def test_an_optional_pack_is_a_line():
    """The boot goes on without it."""
    told = {"custom_nodes_failed": [fault("alpha")]}
    packs = [pack("alpha", optional=True), pack("beta", optional=True)]
    assert check_loaded(packs, told, []) == [
        "node pack alpha does not load: ValueError: no",
        "node pack beta does not load: ComfyUI did not load it",
    ]
