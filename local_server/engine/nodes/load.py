"""Nodes that read pictures from files, or make them from nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping  # noqa: TC003 - read at run time for the signature
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, ImageSequence

from local_server.engine.nodes.specs import BATCH, COLOR, SIZE
from local_server.engine.schema import Call, Pixels, Result, node

if TYPE_CHECKING:
    from pathlib import Path

    from local_server.engine.folders import Folders

# What stands for the mask of a picture without transparency.
NO_MASK = (64, 64)


def _missing(folders: Folders, image: Any) -> str | None:
    """Say what is wrong with a file reference."""
    return None if folders.annotated(image).exists() else f"Invalid image file: {image}"


def _content(folders: Folders, inputs: Mapping[str, Any]) -> str:
    """Hash the file: another content under the same name is another input."""
    with folders.annotated(inputs["image"]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> Image.Image:
    """Open a picture; one that is cut off at its end is read as far as it goes."""
    try:
        return _loaded(path)
    except (OSError, ValueError):
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _loaded(path)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _loaded(path: Path) -> Image.Image:
    picture = Image.open(path)
    try:
        picture.load()
    except BaseException:
        picture.close()
        raise
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF data say, and 32-bit grey into 8-bit range."""
    turned = ImageOps.exif_transpose(picture)
    return turned.point(lambda value: value * (1 / 255)) if turned.mode == "I" else turned


def _unit(picture: Image.Image) -> Pixels:
    return np.asarray(picture).astype(np.float32) / np.float32(255)


def _mask(picture: Image.Image) -> Pixels:
    if "A" in picture.getbands():
        return 1 - _unit(picture.getchannel("A"))
    if picture.mode == "P" and "transparency" in picture.info:
        return 1 - _unit(picture.convert("RGBA").getchannel("A"))
    return np.zeros(NO_MASK, np.float32)


def read(path: Path) -> tuple[Pixels, Pixels]:
    """Read a file's frames of the first one's size as a batch of pictures and their masks."""
    frames: list[Pixels] = []
    masks: list[Pixels] = []
    with _open(path) as source:
        for frame in ImageSequence.Iterator(source):
            upright = _upright(frame)
            pixels = _unit(upright.convert("RGB"))
            if frames and pixels.shape != frames[0].shape:
                continue
            frames.append(pixels)
            masks.append(_mask(upright))
            if source.format == "MPO":
                # The further frames are other views of the same picture.
                break
    return np.stack(frames), np.stack(masks)


@node(
    "LoadImage",
    category="image",
    display_name="Load Image",
    required={"image": [lambda folders: folders.input_images(), {"image_upload": True}]},
    outputs=("IMAGE", "MASK"),
    checks={"image": _missing},
    fingerprint=_content,
)
def load_image(call: Call, image: str) -> Result:
    """Read a picture; the mask is 1 where it is transparent."""
    return read(call.folders.annotated(image))


@node(
    "LoadImageOutput",
    category="image",
    display_name="Load Image (from Outputs)",
    required={
        "image": [
            "COMBO",
            {
                "image_upload": True,
                "image_folder": "output",
                "remote": {
                    "route": "/internal/files/output",
                    "refresh_button": True,
                    "control_after_refresh": "first",
                },
            },
        ]
    },
    outputs=("IMAGE", "MASK"),
    experimental=True,
    checks={"image": _missing},
    fingerprint=_content,
)
def load_image_output(call: Call, image: str) -> Result:
    """Read a picture that is usually named with ` [output]` behind it."""
    return read(call.folders.annotated(image))


@node(
    "LoadImageMask",
    category="mask",
    display_name="Load Image (as Mask)",
    required={
        "image": [lambda folders: folders.input_files(), {"image_upload": True}],
        "channel": [["alpha", "red", "green", "blue"]],
    },
    outputs=("MASK",),
    checks={"image": _missing},
    fingerprint=_content,
)
def load_image_mask(call: Call, image: str, channel: str) -> Result:
    """Read one channel of a picture; alpha is turned around, so that transparent is 1."""
    with _open(call.folders.annotated(image)) as source:
        picture = _upright(source).convert("RGBA")
    pixels = _unit(picture.getchannel(channel[0].upper()))
    return ((1 - pixels if channel == "alpha" else pixels)[np.newaxis],)


@node(
    "EmptyImage",
    category="image",
    required={
        "width": SIZE,
        "height": SIZE,
        "batch_size": BATCH,
        "color": COLOR,
    },
    outputs=("IMAGE",),
)
def empty_image(width: int, height: int, batch_size: int = 1, color: int = 0) -> Result:
    """Make pictures of one colour, given as 0xRRGGBB."""
    levels = np.array([(color >> shift) & 0xFF for shift in (16, 8, 0)], np.float32)
    shape = (batch_size, height, width, 3)
    return (np.full(shape, levels / np.float32(255), np.float32),)


NODES = (load_image, load_image_output, load_image_mask, empty_image)
