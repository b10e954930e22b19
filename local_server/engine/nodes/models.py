"""Nodes that take model files; they exist only with `--test-faults`, and load nothing."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from local_server.engine.model_paths import TEST_FOLDER
from local_server.engine.schema import Call, Pixels, Result, node

if TYPE_CHECKING:
    from local_server.engine.folders import Folders
    from local_server.engine.schema import Spec

CATEGORY = "test"
MODULE = "test_faults"
SIDE = 64


def _listed(folder: str, *more: str) -> Spec:
    """Give a choice of a model folder's files, after some more."""

    def choices(folders: Folders) -> list[str]:
        return [*more, *folders.models_in(folder)]

    return [choices]


def _colored(call: Call, folder: str, name: str) -> Pixels:
    """Make a picture whose colour is the first three bytes of the file's SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = call.folders.model(folder, name)
    if path is None:
        raise FileNotFoundError(f"Model in folder '{folder}' with filename '{name}' not found.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    color = np.frombuffer(digest[:3], np.uint8).astype(np.float32) / np.float32(255)
    return np.full((1, SIDE, SIDE, 3), color, np.float32)


@node(
    "TestCheckpoint",
    category=CATEGORY,
    module=MODULE,
    required={"ckpt_name": _listed("checkpoints")},
    outputs=("IMAGE",),
)
def test_checkpoint(call: Call, ckpt_name: str) -> Result:
    """Show a checkpoint's hash as a colour."""
    return (_colored(call, "checkpoints", ckpt_name),)


@node(
    "TestLora",
    category=CATEGORY,
    module=MODULE,
    required={"image": ["IMAGE"], "lora_name": _listed("loras", "None")},
    outputs=("IMAGE",),
)
def test_lora(call: Call, image: Pixels, lora_name: str) -> Result:
    """Show a LoRA's hash as a colour, or the picture as it is without one."""
    return (image if lora_name == "None" else _colored(call, "loras", lora_name),)


@node(
    "TestPackLoader",
    category=CATEGORY,
    module="custom_nodes.test_pack",
    required={"thing": _listed(TEST_FOLDER)},
    outputs=("IMAGE",),
)
def test_pack_loader(call: Call, thing: str) -> Result:
    """Show the hash of a file of the pack's own model folder as a colour."""
    return (_colored(call, TEST_FOLDER, thing),)


NODES = (test_checkpoint, test_lora, test_pack_loader)
