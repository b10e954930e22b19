"""Nodes that put pictures on each other, and masks into pictures."""

from __future__ import annotations

import numpy as np

from local_server.engine.nodes.effects import same_channels
from local_server.engine.nodes.specs import IMAGE, IMAGE3, MASK, MASK3, OFFSET
from local_server.engine.resample import resize, resize_masks
from local_server.engine.schema import Pixels, Result, node

COMPOSITING = "comfy_extras.nodes_compositing"


@node(
    "ImageCompositeMasked",
    category="image",
    module="comfy_extras.nodes_mask",
    required={
        "destination": IMAGE,
        "source": IMAGE,
        "x": OFFSET,
        "y": OFFSET,
        "resize_source": ["BOOLEAN", {"default": False}],
    },
    optional={"mask": MASK},
    outputs=("IMAGE",),
)
def image_composite_masked(
    destination: Pixels,
    source: Pixels,
    x: int,
    y: int,
    resize_source: bool,
    mask: Pixels | None = None,
) -> Result:
    """Put one picture on another where the mask says so; the mask has the source's size."""
    destination, source = same_channels(destination, source)
    result = destination.copy()
    if resize_source:
        source = resize(source, result.shape[2], result.shape[1], "bilinear")
    source = _repeated(source, len(result))
    below = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    share = np.ones(source.shape[:3], np.float32)
    if mask is not None:
        share = _repeated(resize_masks(mask, source.shape[2], source.shape[1]), len(source))
    height, width = below.shape[1:3]
    share = share[:, :height, :width, np.newaxis]
    below[...] = share * source[:, :height, :width] + (1 - share) * below
    return (result,)


def _repeated(batch: Pixels, count: int) -> Pixels:
    """Repeat or cut a batch to a number of pictures."""
    times = -(-count // len(batch))
    return np.concatenate([batch] * times)[:count]


@node(
    "SplitImageWithAlpha",
    category="mask/compositing",
    display_name="Split Image with Alpha",
    module=COMPOSITING,
    schema3=True,
    required={"image": IMAGE3},
    outputs=("IMAGE", "MASK"),
)
def split_image_with_alpha(image: Pixels) -> Result:
    """Take the alpha channel out; the mask is 1 where the picture is transparent."""
    opaque = np.ones(image.shape[:3], np.float32)
    alpha = image[..., 3] if image.shape[-1] > 3 else opaque
    return image[..., :3], 1 - alpha


@node(
    "JoinImageWithAlpha",
    category="mask/compositing",
    display_name="Join Image with Alpha",
    module=COMPOSITING,
    schema3=True,
    required={"image": IMAGE3, "alpha": MASK3},
    outputs=("IMAGE",),
)
def join_image_with_alpha(image: Pixels, alpha: Pixels) -> Result:
    """Add an alpha channel that is transparent where the mask is 1."""
    height, width = image.shape[1:3]
    opacity = 1 - resize_masks(alpha, width, height)
    count = min(len(image), len(opacity))
    pair = (image[:count, ..., :3], opacity[:count, ..., np.newaxis])
    return (np.concatenate(pair, axis=-1),)


NODES = (image_composite_masked, split_image_with_alpha, join_image_with_alpha)
