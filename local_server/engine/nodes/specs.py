"""Inputs that many nodes share, as `/object_info` tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_server.engine.schema import Spec

MAX_SIZE = 16384

IMAGE: Spec = ["IMAGE"]
MASK: Spec = ["MASK"]
# The same in ComfyUI's newer way of declaring nodes.
IMAGE3: Spec = ["IMAGE", {}]
MASK3: Spec = ["MASK", {}]
SIZE: Spec = ["INT", {"default": 512, "min": 1, "max": MAX_SIZE, "step": 1}]
OFFSET: Spec = ["INT", {"default": 0, "min": 0, "max": MAX_SIZE, "step": 1}]
BATCH: Spec = ["INT", {"default": 1, "min": 1, "max": 4096}]
COLOR: Spec = ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}]


def fraction(default: float, **more: Any) -> Spec:
    """Give a number from 0 to 1, or between other limits."""
    return ["FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, **more}]


def choices(*options: str) -> Spec:
    """Give a choice in ComfyUI's newer form."""
    return ["COMBO", {"multiselect": False, "options": list(options)}]
