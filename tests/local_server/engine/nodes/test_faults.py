"""The fault nodes; TestExit and the interrupts are in test_main.py and test_executor.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from local_server.engine.nodes import catalog
from local_server.engine.nodes.faults import NodeFaultError, OutOfMemoryError

if TYPE_CHECKING:
    from local_server.engine.folders import Folders


def test_fault_nodes_exist_only_when_asked_for() -> None:
    """Their names begin with Test, and no other's do."""
    added = set(catalog(test_faults=True)) - set(catalog(test_faults=False))

    assert len(added) == 12
    assert all(name.startswith("Test") for name in added)


def test_nodes_raise_on_purpose(run: Any) -> None:
    """One with a message, one as a device without memory does."""
    with pytest.raises(NodeFaultError, match="because"):
        run("TestRaise", image=None, message="because")
    with pytest.raises(OutOfMemoryError, match="Allocation on device 0"):
        run("TestOutOfMemory", image=None)


def test_a_sleep_gives_its_input_on(run: Any) -> None:
    """Silent or in steps."""
    assert run("TestSleep", image="anything", seconds=0.0, steps=0) == ("anything",)
    assert run("TestSleep", image=3, seconds=0.0, steps=2) == (3,)


def test_noise_follows_its_seed(run: Any) -> None:
    """The same seed gives the same picture, from 0 to 1."""
    one, again, other = (run("TestNoise", width=9, height=5, seed=seed)[0] for seed in (1, 1, 2))

    assert one.shape == (1, 5, 9, 3)
    assert one.dtype == np.float32
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_text_is_shown(run: Any) -> None:
    """Under the key that PreviewAny uses."""
    assert run("TestText", text="a").ui == {"text": ["a"]}


def test_a_file_is_announced_under_any_key(run: Any, folders: Folders) -> None:
    """Its size is exact, and its name begins with the prefix."""
    shown = run("TestFile", name="a.glb", size_bytes=10_000, key="3d", filename_prefix="job/x")
    path = folders.output / "job" / "x_00001_a.glb"

    assert shown.ui == {"3d": [{"filename": path.name, "subfolder": "job", "type": "output"}]}
    assert path.stat().st_size == 10_000
    assert run("TestFile", name="b", size_bytes=0).ui["gifs"][0]["filename"] == "test_00001_b"


def test_a_file_can_be_written_silently(run: Any, folders: Folders) -> None:
    """Nothing is told of it."""
    assert run("TestSilentFile", name="a.bin", size_bytes=5) == ()
    assert (folders.output / "test_00001_a.bin").stat().st_size == 5


def test_a_large_file_has_bytes_that_differ(run: Any, folders: Folders) -> None:
    """The same for the same seed, of any size."""
    size = 2 * (1 << 20) + 5
    first = run("TestNoiseFile", name="a.mp4", size_bytes=size, seed=1).ui["gifs"][0]["filename"]
    again = run("TestNoiseFile", name="b.mp4", size_bytes=size, seed=1).ui["gifs"][0]["filename"]
    content = (folders.output / first).read_bytes()

    assert len(content) == size
    assert content == (folders.output / again).read_bytes()
    assert len(set(content[:4096])) > 200
