"""Nodes that move pixels and pictures around: crops, turns, pads, batches."""

from __future__ import annotations

import numpy as np

from local_server.engine.nodes.specs import BATCH, IMAGE, IMAGE3, MAX_SIZE, OFFSET, SIZE
from local_server.engine.resample import crop_to_shape, resize
from local_server.engine.schema import Call, Pixels, Result, node

EXTRAS = "comfy_extras.nodes_images"
PAD = ["INT", {"default": 0, "min": 0, "max": MAX_SIZE, "step": 8}]


@node(
    "ImageInvert",
    category="image",
    display_name="Invert Image",
    required={"image": IMAGE},
    outputs=("IMAGE",),
)
def image_invert(image: Pixels) -> Result:
    """Turn each colour into its opposite."""
    return (1.0 - image,)


@node(
    "ImageCrop",
    category="image/transform",
    display_name="Image Crop",
    module=EXTRAS,
    required={"image": IMAGE, "width": SIZE, "height": SIZE, "x": OFFSET, "y": OFFSET},
    outputs=("IMAGE",),
)
def image_crop(image: Pixels, width: int, height: int, x: int, y: int) -> Result:
    """Cut out a rectangle; what lies outside the picture is left out."""
    x = min(x, image.shape[2] - 1)
    y = min(y, image.shape[1] - 1)
    return (image[:, y : y + height, x : x + width],)


@node(
    "ImageFlip",
    category="image/transform",
    module=EXTRAS,
    required={"image": IMAGE, "flip_method": [["x-axis: vertically", "y-axis: horizontally"]]},
    outputs=("IMAGE",),
)
def image_flip(image: Pixels, flip_method: str) -> Result:
    """Mirror upside down, or left to right."""
    return (np.flip(image, 1 if flip_method.startswith("x") else 2),)


@node(
    "ImageRotate",
    category="image/transform",
    module=EXTRAS,
    required={
        "image": IMAGE,
        "rotation": [["none", "90 degrees", "180 degrees", "270 degrees"]],
    },
    outputs=("IMAGE",),
)
def image_rotate(image: Pixels, rotation: str) -> Result:
    """Turn clockwise by right angles."""
    turns = {"90": 1, "18": 2, "27": 3}.get(rotation[:2], 0)
    return (np.rot90(image, turns, axes=(2, 1)),)


@node(
    "ImagePadForOutpaint",
    category="image",
    display_name="Pad Image for Outpainting",
    required={
        "image": IMAGE,
        "left": PAD,
        "top": PAD,
        "right": PAD,
        "bottom": PAD,
        "feathering": ["INT", {"default": 40, "min": 0, "max": MAX_SIZE, "step": 1}],
    },
    outputs=("IMAGE", "MASK"),
)
def image_pad_for_outpaint(
    image: Pixels, left: int, top: int, right: int, bottom: int, feathering: int
) -> Result:
    """Add grey on the sides; the mask is 1 there and fades out inside."""
    height, width = image.shape[1:3]
    sides = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(image, sides, constant_values=np.float32(0.5))
    inner = np.zeros((height, width), np.float32)
    if 0 < feathering * 2 < min(height, width):
        rows, columns = np.arange(height), np.arange(width)
        down = np.minimum(
            rows if top else np.full(height, height), height - rows if bottom else height
        )
        along = np.minimum(
            columns if left else np.full(width, width), width - columns if right else width
        )
        distance = np.minimum(down[:, np.newaxis], along)
        share = np.maximum(feathering - distance, 0) / feathering
        inner = (share * share).astype(np.float32)
    mask = np.pad(inner, sides[1:3], constant_values=np.float32(1))
    return padded, mask[np.newaxis]


@node(
    "ImageBatch",
    category="image",
    display_name="Batch Images",
    required={"image1": IMAGE, "image2": IMAGE},
    outputs=("IMAGE",),
)
def image_batch(image1: Pixels, image2: Pixels) -> Result:
    """Join two batches; the second is cut and resized to the first one's size."""
    if image1.shape[1:] != image2.shape[1:]:
        height, width = image1.shape[1:3]
        image2 = resize(crop_to_shape(image2, width, height), width, height, "bilinear")
    return (np.concatenate([image1, image2]),)


@node(
    "ImageFromBatch",
    category="image/batch",
    module=EXTRAS,
    required={
        "image": IMAGE,
        "batch_index": ["INT", {"default": 0, "min": 0, "max": 4095}],
        "length": BATCH,
    },
    outputs=("IMAGE",),
)
def image_from_batch(image: Pixels, batch_index: int, length: int) -> Result:
    """Take some pictures out of a batch, at least the last one."""
    start = min(len(image) - 1, batch_index)
    return (image[start : start + length],)


@node(
    "RepeatImageBatch",
    category="image/batch",
    module=EXTRAS,
    required={"image": IMAGE, "amount": BATCH},
    outputs=("IMAGE",),
)
def repeat_image_batch(image: Pixels, amount: int) -> Result:
    """Repeat a whole batch."""
    return (np.tile(image, (amount, 1, 1, 1)),)


@node(
    "RebatchImages",
    category="image/batch",
    display_name="Rebatch Images",
    module="comfy_extras.nodes_rebatch",
    schema3=True,
    required={"images": IMAGE3, "batch_size": BATCH},
    outputs=("IMAGE",),
    list_inputs=True,
    list_outputs=True,
)
def rebatch_images(images: list[Pixels], batch_size: list[int]) -> Result:
    """Make batches of another size out of a list of batches."""
    every = [one for batch in images for one in batch]
    size = batch_size[0]
    starts = range(0, len(every), size)
    return ([np.stack(every[start : start + size]) for start in starts],)


@node(
    "GetImageSize",
    category="image",
    display_name="Get Image Size",
    module=EXTRAS,
    required={"image": IMAGE},
    hidden={"unique_id": "UNIQUE_ID"},
    outputs=("INT", "INT", "INT"),
    output_names=("width", "height", "batch_size"),
)
def get_image_size(call: Call, image: Pixels) -> Result:
    """Measure a batch, and tell the size to all clients."""
    batch_size, height, width = image.shape[:3]
    call.reporter.text(f"width: {width}, height: {height}\n batch size: {batch_size}")
    return width, height, batch_size


NODES = (
    image_invert,
    image_crop,
    image_flip,
    image_rotate,
    image_pad_for_outpaint,
    image_batch,
    image_from_batch,
    repeat_image_batch,
    rebatch_images,
    get_image_size,
)
