"""Nodes that fail, wait or write on purpose; they exist only with `--test-faults`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from local_server.engine.nodes.save import to_pictures
from local_server.engine.schema import ANY, Call, Result, Shown, node

if TYPE_CHECKING:
    from pathlib import Path

CATEGORY = "test"
SIZE = {"default": 64, "min": 1, "max": 16384, "step": 1}
SEED = {"default": 0, "min": 0, "max": 2**64 - 1}
BLOCK_BYTES = 1 << 20


class OutOfMemoryError(RuntimeError):
    """What torch raises when a device has too little memory, by the name it has on the wire."""

    __module__ = "torch"


class NodeFaultError(RuntimeError):
    """What TestRaise raises."""


@node(
    "TestRaise",
    category=CATEGORY,
    module="test_faults",
    required={
        "image": [ANY],
        "message": ["STRING", {"default": "raised on purpose"}],
    },
    outputs=(ANY,),
)
def fault_raise(image: Any, message: str) -> Result:
    """Raise."""
    del image
    raise NodeFaultError(message)


@node(
    "TestSleep",
    category=CATEGORY,
    module="test_faults",
    required={
        "image": [ANY],
        "seconds": ["FLOAT", {"default": 0.1, "min": 0.0, "max": 86400.0}],
        "steps": ["INT", {"default": 0, "min": 0, "max": 10000}],
    },
    outputs=(ANY,),
)
def fault_sleep(call: Call, image: Any, seconds: float, steps: int) -> Result:
    """Wait, and tell and heed interrupts after each step; with 0 steps do neither."""
    if steps == 0:
        time.sleep(seconds)
        return (image,)
    picture = to_pictures(np.full((1, 64, 64, 3), 0.5, np.float32))[0] if call.previews else None
    for index in range(steps):
        call.reporter.interruption.wait(seconds / steps)
        call.reporter.step(index + 1, steps, "JPEG", picture)
    return (image,)


@node(
    "TestOutOfMemory",
    category=CATEGORY,
    module="test_faults",
    required={"image": [ANY]},
    outputs=(ANY,),
)
def fault_out_of_memory(image: Any) -> Result:
    """Raise as torch does when an allocation fails."""
    del image
    raise OutOfMemoryError(
        "Allocation on device 0 would exceed allowed memory. (out of memory)\n"
        "Currently allocated     : 22.10 GiB\nRequested               : 4.00 GiB\n"
        "Device limit            : 23.64 GiB"
    )


@node(
    "TestExit",
    category=CATEGORY,
    module="test_faults",
    required={"image": [ANY], "code": ["INT", {"default": 1, "min": 0, "max": 255}]},
    outputs=(ANY,),
)
def fault_exit(image: Any, code: int) -> Result:
    """End the engine's process at once."""
    del image
    os._exit(code)


@node(
    "TestNoise",
    category=CATEGORY,
    module="test_faults",
    required={"width": ["INT", SIZE], "height": ["INT", SIZE], "seed": ["INT", SEED]},
    outputs=("IMAGE",),
)
def fault_noise(width: int, height: int, seed: int) -> Result:
    """Make a picture of noise, which compresses badly."""
    rng = np.random.default_rng(seed)
    return (rng.random((1, height, width, 3), np.float32),)


@node(
    "TestText",
    category=CATEGORY,
    module="test_faults",
    required={"text": ["STRING", {"default": "text"}]},
    output_node=True,
)
def fault_text(text: str) -> Result:
    """Show a text."""
    return Shown({"text": [text]})


def _write(call: Call, prefix: str, name: str, size: int) -> tuple[Path, str]:
    """Write a file of `size` zero bytes, and give its path and subfolder."""
    place = call.folders.place_for(call.folders.output, prefix)
    path = place.folder / f"{place.name}_{place.counter:05}_{name}"
    with path.open("wb") as file:
        file.truncate(size)
    return path, place.subfolder


FILE_INPUTS = {
    "name": ["STRING", {"default": "file.bin"}],
    "size_bytes": ["INT", {"default": 16, "min": 0, "max": 2**40}],
}
PREFIX = {"filename_prefix": ["STRING", {"default": "test"}]}


@node(
    "TestFile",
    category=CATEGORY,
    module="test_faults",
    required=FILE_INPUTS,
    optional={"key": ["STRING", {"default": "gifs"}], **PREFIX},
    output_node=True,
)
def fault_file(
    call: Call, name: str, size_bytes: int, key: str = "gifs", filename_prefix: str = "test"
) -> Result:
    """Write `<prefix>_00001_<name>` and tell of it under a medium's key: `gifs`, `3d`, `audio`."""
    path, subfolder = _write(call, filename_prefix, name, size_bytes)
    told = {"filename": path.name, "subfolder": subfolder, "type": "output"}
    return Shown({key: [told]})


@node(
    "TestSilentFile",
    category=CATEGORY,
    module="test_faults",
    required=FILE_INPUTS,
    optional=PREFIX,
    output_node=True,
)
def fault_silent_file(
    call: Call, name: str, size_bytes: int, filename_prefix: str = "test"
) -> Result:
    """Write `<prefix>_00001_<name>` and tell nobody."""
    _write(call, filename_prefix, name, size_bytes)
    return ()


@node(
    "TestNoiseFile",
    category=CATEGORY,
    module="test_faults",
    required={**FILE_INPUTS, "seed": ["INT", SEED]},
    optional=PREFIX,
    output_node=True,
)
def fault_noise_file(
    call: Call, name: str, size_bytes: int, seed: int, filename_prefix: str = "test"
) -> Result:
    """Write a file as TestFile does, of bytes that compress badly and differ everywhere."""
    path, subfolder = _write(call, filename_prefix, name, 0)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, size_bytes, BLOCK_BYTES):
            file.write(rng.bytes(min(BLOCK_BYTES, size_bytes - start)))
    return Shown({"gifs": [{"filename": path.name, "subfolder": subfolder, "type": "output"}]})


NODES = (
    fault_raise,
    fault_sleep,
    fault_out_of_memory,
    fault_exit,
    fault_noise,
    fault_text,
    fault_file,
    fault_silent_file,
    fault_noise_file,
)
