"""Nodes that resize pictures."""

from __future__ import annotations

import math

from local_server.engine.nodes.specs import IMAGE, IMAGE3, MAX_SIZE, choices
from local_server.engine.resample import METHODS, crop_to_shape, resize
from local_server.engine.schema import Call, Pixels, Result, node

SIZE_OR_AUTO = ["INT", {"default": 512, "min": 0, "max": MAX_SIZE, "step": 1}]
MEGAPIXEL = 1024 * 1024


@node(
    "ImageScale",
    category="image/upscaling",
    display_name="Upscale Image",
    required={
        "image": IMAGE,
        "upscale_method": [list(METHODS)],
        "width": SIZE_OR_AUTO,
        "height": SIZE_OR_AUTO,
        "crop": [["disabled", "center"]],
    },
    outputs=("IMAGE",),
)
def image_scale(
    call: Call, image: Pixels, upscale_method: str, width: int, height: int, crop: str
) -> Result:
    """Resize to a size; a side of 0 follows from the other one."""
    if width == 0 and height == 0:
        return (image,)
    old_height, old_width = image.shape[1:3]
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    if crop == "center":
        image = crop_to_shape(image, width, height)
    return (call.each(image, lambda one: resize(one, width, height, upscale_method)),)


@node(
    "ImageScaleBy",
    category="image/upscaling",
    display_name="Upscale Image By",
    required={
        "image": IMAGE,
        "upscale_method": [list(METHODS)],
        "scale_by": ["FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}],
    },
    outputs=("IMAGE",),
)
def image_scale_by(call: Call, image: Pixels, upscale_method: str, scale_by: float) -> Result:
    """Resize by a factor."""
    height, width = (round(side * scale_by) for side in image.shape[1:3])
    return (call.each(image, lambda one: resize(one, width, height, upscale_method)),)


@node(
    "ImageScaleToTotalPixels",
    category="image/upscaling",
    display_name=None,
    module="comfy_extras.nodes_post_processing",
    schema3=True,
    required={
        "image": IMAGE3,
        "upscale_method": choices(*METHODS),
        "megapixels": ["FLOAT", {"default": 1.0, "min": 0.01, "max": 16.0, "step": 0.01}],
    },
    outputs=("IMAGE",),
)
def image_scale_to_total_pixels(
    call: Call, image: Pixels, upscale_method: str, megapixels: float
) -> Result:
    """Resize to a number of pixels, in units of 1024 by 1024, and keep the shape."""
    height, width = image.shape[1:3]
    factor = math.sqrt(int(megapixels * MEGAPIXEL) / (width * height))
    width, height = round(width * factor), round(height * factor)
    return (call.each(image, lambda one: resize(one, width, height, upscale_method)),)


NODES = (image_scale, image_scale_by, image_scale_to_total_pixels)
