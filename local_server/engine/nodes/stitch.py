"""The node that puts two pictures side by side."""

from __future__ import annotations

import numpy as np

from local_server.engine.nodes.specs import IMAGE
from local_server.engine.resample import resize
from local_server.engine.schema import Pixels, Result, node

COLORS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}
HEIGHT, WIDTH, CHANNELS = 1, 2, 3


@node(
    "ImageStitch",
    category="image/transform",
    display_name="Image Stitch",
    module="comfy_extras.nodes_images",
    required={
        "image1": IMAGE,
        "direction": [["right", "down", "left", "up"], {"default": "right"}],
        "match_image_size": ["BOOLEAN", {"default": True}],
        "spacing_width": ["INT", {"default": 0, "min": 0, "max": 1024, "step": 2}],
        "spacing_color": [list(COLORS), {"default": "white"}],
    },
    optional={"image2": IMAGE},
    outputs=("IMAGE",),
)
def image_stitch(
    image1: Pixels,
    direction: str,
    match_image_size: bool,
    spacing_width: int,
    spacing_color: str,
    image2: Pixels | None = None,
) -> Result:
    """Put the second picture beside the first, resized to it or padded, with a gap between."""
    if image2 is None:
        return (image1,)
    along = WIDTH if direction in ("left", "right") else HEIGHT
    across = HEIGHT if along == WIDTH else WIDTH
    count = max(len(image1), len(image2))
    image1, image2 = _repeat_last(image1, count), _repeat_last(image2, count)
    if match_image_size:
        image2 = _matched(image2, image1, along)
    else:
        level = {"white": 1.0}.get(spacing_color, 0.0)
        size = max(image1.shape[across], image2.shape[across])
        image1, image2 = (_centred(each, across, size, level) for each in (image1, image2))
    channels = max(image1.shape[CHANNELS], image2.shape[CHANNELS])
    image1, image2 = _widened(image1, channels), _widened(image2, channels)
    parts = [image2, image1] if direction in ("left", "up") else [image1, image2]
    if spacing_width > 0:
        shape = list(image1.shape)
        shape[along] = spacing_width + spacing_width % 2
        parts.insert(1, _gap(shape, spacing_color))
    return (np.concatenate(parts, axis=along),)


def _repeat_last(image: Pixels, count: int) -> Pixels:
    missing = count - len(image)
    return np.concatenate([image, np.repeat(image[-1:], missing, axis=0)]) if missing else image


def _matched(image: Pixels, other: Pixels, along: int) -> Pixels:
    """Resize to the other picture's height, or to its width, and keep the shape."""
    shape = image.shape[2] / image.shape[1]
    height, width = other.shape[1:3]
    if along == WIDTH:
        return resize(image, int(height * shape), height, "lanczos")
    return resize(image, width, int(width / shape), "lanczos")


def _centred(image: Pixels, axis: int, size: int, level: float) -> Pixels:
    missing = size - image.shape[axis]
    sides = [(0, 0)] * image.ndim
    sides[axis] = (missing // 2, missing - missing // 2)
    return np.pad(image, sides, constant_values=np.float32(level)) if missing else image


def _widened(image: Pixels, channels: int) -> Pixels:
    missing = channels - image.shape[CHANNELS]
    sides = ((0, 0), (0, 0), (0, 0), (0, missing))
    return np.pad(image, sides, constant_values=np.float32(1)) if missing else image


def _gap(shape: list[int], color: str) -> Pixels:
    gap = np.ones(shape, np.float32)
    gap[..., :3] = COLORS[color][: shape[CHANNELS]]
    return gap


NODES = (image_stitch,)
