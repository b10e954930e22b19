"""Nodes for masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from local_server.engine.nodes.specs import COLOR, IMAGE, MASK, MAX_SIZE, OFFSET, SIZE, fraction
from local_server.engine.schema import Pixels, Result, node

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MODULE = "comfy_extras.nodes_mask"
CHANNELS = ["red", "green", "blue", "alpha"]

_OPERATIONS: dict[str, Callable[[Pixels, Pixels], NDArray[Any]]] = {
    "multiply": np.multiply,
    "add": np.add,
    "subtract": np.subtract,
    "and": lambda below, above: _set(below) & _set(above),
    "or": lambda below, above: _set(below) | _set(above),
    "xor": lambda below, above: _set(below) ^ _set(above),
}


def _set(mask: Pixels) -> NDArray[np.bool_]:
    return np.rint(mask).astype(bool)


@node(
    "ImageToMask",
    category="mask",
    display_name="Convert Image to Mask",
    module=MODULE,
    required={"image": IMAGE, "channel": [CHANNELS]},
    outputs=("MASK",),
)
def image_to_mask(image: Pixels, channel: str) -> Result:
    """Take one channel."""
    return (image[..., CHANNELS.index(channel)],)


@node(
    "MaskToImage",
    category="mask",
    display_name="Convert Mask to Image",
    module=MODULE,
    required={"mask": MASK},
    outputs=("IMAGE",),
)
def mask_to_image(mask: Pixels) -> Result:
    """Show a mask in grey."""
    return (np.repeat(mask[..., np.newaxis], 3, axis=-1),)


@node(
    "ImageColorToMask",
    category="mask",
    module=MODULE,
    required={"image": IMAGE, "color": COLOR},
    outputs=("MASK",),
)
def image_color_to_mask(image: Pixels, color: int) -> Result:
    """Mark the pixels of one colour, given as 0xRRGGBB."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.int32)
    values = (levels[..., 0] << 16) + (levels[..., 1] << 8) + levels[..., 2]
    return ((values == color).astype(np.float32),)


@node(
    "SolidMask",
    category="mask",
    module=MODULE,
    required={"value": fraction(1.0), "width": SIZE, "height": SIZE},
    outputs=("MASK",),
)
def solid_mask(value: float, width: int, height: int) -> Result:
    """Make a mask of one value."""
    return (np.full((1, height, width), value, np.float32),)


@node(
    "InvertMask",
    category="mask",
    module=MODULE,
    required={"mask": MASK},
    outputs=("MASK",),
)
def invert_mask(mask: Pixels) -> Result:
    """Swap 0 and 1."""
    return (1.0 - mask,)


@node(
    "CropMask",
    category="mask",
    module=MODULE,
    required={"mask": MASK, "x": OFFSET, "y": OFFSET, "width": SIZE, "height": SIZE},
    outputs=("MASK",),
)
def crop_mask(mask: Pixels, x: int, y: int, width: int, height: int) -> Result:
    """Cut out a rectangle; what lies outside the mask is left out."""
    return (mask[:, y : y + height, x : x + width],)


@node(
    "MaskComposite",
    category="mask",
    module=MODULE,
    required={
        "destination": MASK,
        "source": MASK,
        "x": OFFSET,
        "y": OFFSET,
        "operation": [list(_OPERATIONS)],
    },
    outputs=("MASK",),
)
def mask_composite(destination: Pixels, source: Pixels, x: int, y: int, operation: str) -> Result:
    """Combine two masks where the second one lies on the first."""
    result = destination.copy()
    below = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    above = source[:, : below.shape[1], : below.shape[2]]
    below[...] = _OPERATIONS[operation](below, above)
    return (np.clip(result, 0, 1),)


@node(
    "FeatherMask",
    category="mask",
    module=MODULE,
    required={"mask": MASK, "left": OFFSET, "top": OFFSET, "right": OFFSET, "bottom": OFFSET},
    outputs=("MASK",),
)
def feather_mask(mask: Pixels, left: int, top: int, right: int, bottom: int) -> Result:
    """Fade a mask out towards its sides."""
    result = mask.copy()
    # Right and bottom count from the first line, round to the last: ComfyUI does so, too.
    for lines, near, far in (
        (result.swapaxes(1, 2), left, right),
        (result, top, bottom),
    ):
        size = lines.shape[1]
        for line in range(min(near, size)):
            lines[:, line] *= (line + 1) / min(near, size)
        for line in range(min(far, size)):
            lines[:, -line] *= (line + 1) / min(far, size)
    return (result,)


@node(
    "GrowMask",
    category="mask",
    module=MODULE,
    required={
        "mask": MASK,
        "expand": ["INT", {"default": 0, "min": -MAX_SIZE, "max": MAX_SIZE, "step": 1}],
        "tapered_corners": ["BOOLEAN", {"default": True}],
    },
    outputs=("MASK",),
)
def grow_mask(mask: Pixels, expand: int, tapered_corners: bool) -> Result:
    """Grow or shrink what is marked, by pixels; corners become slanted or stay."""
    better = np.minimum if expand < 0 else np.maximum
    for _ in range(abs(expand)):
        grown = _spread(mask, better, tapered=tapered_corners)
        if np.array_equal(grown, mask):
            break
        mask = grown
    return (mask,)


def _spread(mask: Pixels, better: Callable[[Pixels, Pixels], Pixels], *, tapered: bool) -> Pixels:
    """Give each pixel the best value of its neighbours, with or without the diagonal ones."""
    across = _spread_along(mask, 2, better)
    down = _spread_along(mask if tapered else across, 1, better)
    return better(across, down)


def _spread_along(mask: Pixels, axis: int, better: Callable[[Pixels, Pixels], Pixels]) -> Pixels:
    result = mask.copy()
    source, target = mask.swapaxes(0, axis), result.swapaxes(0, axis)
    target[1:] = better(target[1:], source[:-1])
    target[:-1] = better(target[:-1], source[1:])
    return result


@node(
    "ThresholdMask",
    category="mask",
    module=MODULE,
    required={"mask": MASK, "value": fraction(0.5)},
    outputs=("MASK",),
)
def threshold_mask(mask: Pixels, value: float) -> Result:
    """Turn what is above a value into 1, the rest into 0."""
    return ((mask > np.float32(value)).astype(np.float32),)


NODES = (
    image_to_mask,
    mask_to_image,
    image_color_to_mask,
    solid_mask,
    invert_mask,
    crop_mask,
    mask_composite,
    feather_mask,
    grow_mask,
    threshold_mask,
)
