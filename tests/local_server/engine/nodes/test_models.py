"""Nodes that take model files, for tests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from local_server.engine.model_paths import registry
from local_server.engine.nodes import catalog

if TYPE_CHECKING:
    from local_server.engine.folders import Folders

NODES = [
    ("TestCheckpoint", "checkpoints", "ckpt_name"),
    ("TestLora", "loras", "lora_name"),
    ("TestPackLoader", "test_models", "thing"),
]


@pytest.fixture
def searched(folders: Folders) -> Folders:
    return replace(folders, searched=registry(folders.models, test_faults=True))


@pytest.mark.parametrize(("name", "folder", "field"), NODES)
def test_a_models_hash_is_the_colour(
    run: Any, searched: Folders, name: str, folder: str, field: str
) -> None:
    """Which file was loaded can be told from the picture."""
    (searched.models / folder).mkdir(parents=True)
    (searched.models / folder / "a.pt").write_bytes(b"content")
    image = {"image": None} if name == "TestLora" else {}

    (picture,) = run(name, {"folders": searched}, **{field: "a.pt"}, **image)

    color = list(hashlib.sha256(b"content").digest()[:3])
    assert picture.shape == (1, 64, 64, 3)
    assert np.rint(picture[0, 0, 0] * 255).tolist() == color
    node = catalog(test_faults=True)[name]
    assert node.spec(searched, field)[0][-1] == "a.pt"
    with pytest.raises(FileNotFoundError, match=r"b\.pt"):
        run(name, {"folders": searched}, **{field: "b.pt"}, **image)


def test_no_lora_is_a_choice(run: Any) -> None:
    """The picture passes."""
    assert run("TestLora", image="a picture", lora_name="None") == ("a picture",)


def test_one_is_of_a_node_pack() -> None:
    """As far as whoever asks can tell."""
    assert catalog(test_faults=True)["TestPackLoader"].module == "custom_nodes.test_pack"
