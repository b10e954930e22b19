"""Nodes that write pictures, or send them."""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Mapping  # noqa: TC003 - read at run time for the signature
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from local_server.engine.schema import Call, Pixels, Result, Shown, node

if TYPE_CHECKING:
    from pathlib import Path

    from local_server.engine.folders import Folders

HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
COMPRESS_LEVEL = 4
PREVIEW_COMPRESS_LEVEL = 1
WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}
# EXIF tags of a WebP: the graph, and counting down from Make what the client adds.
EXIF_MODEL = 0x0110
EXIF_MAKE = 0x010F


def to_pictures(images: Pixels) -> list[Image.Image]:
    """Turn a batch into 8-bit pictures."""
    return [Image.fromarray(np.clip(255.0 * image, 0, 255).astype(np.uint8)) for image in images]


def _told(call: Call) -> dict[str, Any]:
    """Give what files say of their making, by name."""
    return {"prompt": call.prompt, **(call.extra_pnginfo or {})} if call.metadata else {}


def _save(images: Pixels, call: Call, prefix: str, root: Path, kind: str, level: int) -> Shown:
    height, width = images.shape[1:3]
    place = call.folders.place_for(root, prefix, width, height)
    metadata = PngInfo()
    for name, value in _told(call).items():
        metadata.add_text(name, json.dumps(value))
    files = []
    for index, picture in enumerate(to_pictures(images)):
        stem = place.name.replace("%batch_num%", str(index))
        name = f"{stem}_{place.counter + index:05}_.png"
        picture.save(place.folder / name, pnginfo=metadata, compress_level=level)
        files.append({"filename": name, "subfolder": place.subfolder, "type": kind})
    return Shown({"images": files})


@node(
    "SaveImage",
    category="image",
    display_name="Save Image",
    required={"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "ComfyUI"}]},
    hidden=HIDDEN,
    output_node=True,
)
def save_image(call: Call, images: Pixels, filename_prefix: str = "ComfyUI") -> Result:
    """Write each picture as a PNG file into the output folder."""
    return _save(images, call, filename_prefix, call.folders.output, "output", COMPRESS_LEVEL)


_PREVIEW_SUFFIX = "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311 - a name


@node(
    "PreviewImage",
    category="image",
    display_name="Preview Image",
    required={"images": ["IMAGE"]},
    hidden=HIDDEN,
    output_node=True,
)
def preview_image(call: Call, images: Pixels) -> Result:
    """Write each picture into the temp folder, under a name that differs from run to run."""
    prefix = f"ComfyUI_temp_{_PREVIEW_SUFFIX}"
    return _save(images, call, prefix, call.folders.temp, "temp", PREVIEW_COMPRESS_LEVEL)


def _now(folders: Folders, inputs: Mapping[str, Any]) -> float:  # noqa: ARG001 - a fingerprint
    return time.time()


@node(
    "SaveImageWebsocket",
    category="api/image",
    module="custom_nodes.websocket_image_save",
    required={"images": ["IMAGE"]},
    output_node=True,
    fingerprint=_now,
)
def save_image_websocket(call: Call, images: Pixels) -> Result:
    """Send each picture as a PNG over the WebSocket, in the frames of previews."""
    for index, picture in enumerate(to_pictures(images)):
        call.reporter.step(index, len(images), "PNG", picture)
    return ()


def _animated(call: Call, images: Pixels, prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
    height, width = images.shape[1:3]
    place = call.folders.place_for(call.folders.output, prefix, width, height)
    name = f"{place.name}_{place.counter:05}_{suffix}"
    return place.folder / name, {
        "filename": name,
        "subfolder": place.subfolder,
        "type": "output",
    }


@node(
    "SaveAnimatedWEBP",
    category="image/animation",
    module="comfy_extras.nodes_images",
    required={
        "images": ["IMAGE"],
        "filename_prefix": ["STRING", {"default": "ComfyUI"}],
        "fps": ["FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}],
        "lossless": ["BOOLEAN", {"default": True}],
        "quality": ["INT", {"default": 80, "min": 0, "max": 100}],
        "method": [list(WEBP_METHODS)],
    },
    hidden=HIDDEN,
    output_node=True,
)
def save_animated_webp(
    call: Call,
    images: Pixels,
    filename_prefix: str,
    fps: float,
    lossless: bool,
    quality: int,
    method: str,
) -> Result:
    """Write a batch as one animated WebP file."""
    path, told = _animated(call, images, filename_prefix, ".webp")
    first, *others = to_pictures(images)
    exif = first.getexif()
    for tag, (name, value) in zip(
        (EXIF_MODEL, *range(EXIF_MAKE, 0, -1)), _told(call).items(), strict=False
    ):
        exif[tag] = f"{name}:{json.dumps(value)}"
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=int(1000 / fps),
        exif=exif,
        lossless=lossless,
        quality=quality,
        method=WEBP_METHODS[method],
    )
    return Shown({"images": [told], "animated": [bool(others)]})


@node(
    "SaveAnimatedPNG",
    category="image/animation",
    module="comfy_extras.nodes_images",
    required={
        "images": ["IMAGE"],
        "filename_prefix": ["STRING", {"default": "ComfyUI"}],
        "fps": ["FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}],
        "compress_level": ["INT", {"default": 4, "min": 0, "max": 9}],
    },
    hidden=HIDDEN,
    output_node=True,
)
def save_animated_png(
    call: Call, images: Pixels, filename_prefix: str, fps: float, compress_level: int
) -> Result:
    """Write a batch as one animated PNG file."""
    path, told = _animated(call, images, filename_prefix, ".png")
    metadata = PngInfo()
    for name, value in _told(call).items():
        chunk = f"{name}\0{json.dumps(value)}".encode("latin-1")
        metadata.add(b"comf", chunk, after_idat=True)
    first, *others = to_pictures(images)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=int(1000 / fps),
        pnginfo=metadata,
        compress_level=compress_level,
    )
    return Shown({"images": [told], "animated": [True]})


NODES = (
    save_image,
    preview_image,
    save_image_websocket,
    save_animated_webp,
    save_animated_png,
)
