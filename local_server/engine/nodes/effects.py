"""Nodes that change colours: blend, blur, sharpen, quantize, noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from local_server.engine.nodes.specs import IMAGE, IMAGE3, choices, fraction
from local_server.engine.resample import crop_to_shape, resize
from local_server.engine.schema import Call, Pixels, Result, node

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODULE = "comfy_extras.nodes_post_processing"
CATEGORY = "image/postprocessing"
RADIUS = ["INT", {"default": 1, "min": 1, "max": 31, "step": 1}]
# How strongly ImageSharpen takes the blurred picture away, for each unit of alpha.
SHARPNESS = 10
DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")


def same_channels(first: Pixels, second: Pixels) -> tuple[Pixels, Pixels]:
    """Cut the second batch to the first one's channels.

    Raises:
        ValueError: the first has more channels; ComfyUI's nodes fail on that, too.
    """
    if first.shape[-1] > second.shape[-1]:
        raise ValueError("the first picture has an alpha channel and the second has none")
    return first, second[..., : first.shape[-1]]


@node(
    "ImageBlend",
    category=CATEGORY,
    display_name=None,
    module=MODULE,
    schema3=True,
    required={
        "image1": IMAGE3,
        "image2": IMAGE3,
        "blend_factor": fraction(0.5),
        "blend_mode": choices(
            "normal", "multiply", "screen", "overlay", "soft_light", "difference"
        ),
    },
    outputs=("IMAGE",),
)
def image_blend(image1: Pixels, image2: Pixels, blend_factor: float, blend_mode: str) -> Result:
    """Mix two pictures; the second is cut and resized to the first one's size."""
    image1, image2 = same_channels(image1, image2)
    if image1.shape != image2.shape:
        height, width = image1.shape[1:3]
        image2 = resize(crop_to_shape(image2, width, height), width, height, "bicubic")
    mixed = _blended(image1, image2, blend_mode)
    return (np.clip(image1 * (1 - blend_factor) + mixed * blend_factor, 0, 1),)


def _blended(below: Pixels, above: Pixels, mode: str) -> Pixels:
    if mode == "normal":
        return above
    if mode == "multiply":
        return below * above
    if mode == "screen":
        return 1 - (1 - below) * (1 - above)
    if mode == "overlay":
        dark, light = 2 * below * above, 1 - 2 * (1 - below) * (1 - above)
        return np.where(below <= 0.5, dark, light)
    if mode == "soft_light":
        curve = np.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, np.sqrt(below))
        dark = below - (1 - 2 * above) * below * (1 - below)
        return np.where(above <= 0.5, dark, below + (2 * above - 1) * (curve - below))
    if mode == "difference":
        return below - above
    raise ValueError(f"Unsupported blend mode: {mode}")


def _blurred(call: Call, image: Pixels, radius: int, sigma: float) -> Pixels:
    """Blur with a Gauss curve whose sigma counts in radii; the border is mirrored.

    Raises:
        ValueError: the picture is smaller than the radius.
        InterruptError: somebody asked for the prompt to stop.
    """
    if radius >= min(image.shape[1:3]):
        raise ValueError(f"the picture is too small for a radius of {radius}")
    steps = np.linspace(-1, 1, 2 * radius + 1, dtype=np.float32)
    curve = np.exp(-(steps * steps) / (2 * sigma * sigma))
    curve /= curve.sum()
    for axis in (1, 2):
        sides = [(0, 0)] * image.ndim
        sides[axis] = (radius, radius)
        padded = np.pad(image, sides, mode="reflect")
        size = image.shape[axis]
        image = np.zeros_like(image)
        for start, weight in enumerate(curve):
            call.reporter.interruption.check()
            image = image + padded.take(np.arange(start, start + size), axis) * weight
    return image


@node(
    "ImageBlur",
    category=CATEGORY,
    display_name=None,
    module=MODULE,
    schema3=True,
    required={
        "image": IMAGE3,
        "blur_radius": RADIUS,
        "sigma": fraction(1.0, min=0.1, max=10.0, step=0.1),
    },
    outputs=("IMAGE",),
)
def image_blur(call: Call, image: Pixels, blur_radius: int, sigma: float) -> Result:
    """Blur."""
    return (call.each(image, lambda one: _blurred(call, one, blur_radius, sigma)),)


@node(
    "ImageSharpen",
    category=CATEGORY,
    display_name=None,
    module=MODULE,
    schema3=True,
    required={
        "image": IMAGE3,
        "sharpen_radius": RADIUS,
        "sigma": fraction(1.0, min=0.1, max=10.0),
        "alpha": fraction(1.0, max=5.0),
    },
    outputs=("IMAGE",),
)
def image_sharpen(
    call: Call, image: Pixels, sharpen_radius: int, sigma: float, alpha: float
) -> Result:
    """Move each colour away from its blurred neighbourhood."""
    strength = alpha * SHARPNESS

    def sharp(one: Pixels) -> Pixels:
        result = one * (1 + strength) - strength * _blurred(call, one, sharpen_radius, sigma)
        return np.clip(result, 0, 1).astype(np.float32)

    return (call.each(image, sharp),)


@node(
    "ImageQuantize",
    category=CATEGORY,
    display_name=None,
    module=MODULE,
    schema3=True,
    required={
        "image": IMAGE3,
        "colors": ["INT", {"default": 256, "min": 1, "max": 256, "step": 1}],
        "dither": choices(*DITHERS),
    },
    outputs=("IMAGE",),
)
def image_quantize(call: Call, image: Pixels, colors: int, dither: str) -> Result:
    """Reduce each picture to a few colours of its own."""
    results = []
    for levels in (image * 255).astype(np.uint8):
        call.reporter.interruption.check()
        picture = Image.fromarray(levels)
        palette = picture.quantize(colors=colors)
        method = Image.Dither.NONE
        if dither == "floyd-steinberg":
            method = Image.Dither.FLOYDSTEINBERG
        elif dither.startswith("bayer-"):
            picture = _bayer_dithered(levels, palette, int(dither.removeprefix("bayer-")))
        quantized = picture.quantize(palette=palette, dither=method).convert("RGB")
        results.append(np.asarray(quantized).astype(np.float32) / np.float32(255))
    return (np.stack(results),)


def _bayer_dithered(levels: NDArray[np.uint8], palette: Image.Image, order: int) -> Image.Image:
    """Shift the colours by a regular pattern, as far as the palette's are apart."""
    spread = 2 * 256 / (len(palette.getpalette() or ()) // 3)
    pattern = (spread * _bayer(int(math.log2(order))) + 0.5).astype(np.float32)
    height, width = levels.shape[:2]
    tiles = (-(-height // order), -(-width // order))
    shifts = np.tile(pattern, tiles)[:height, :width, np.newaxis]
    return Image.fromarray(np.clip(levels + shifts, 0, 255).astype(np.uint8))


def _bayer(doublings: int) -> NDArray[np.float64]:
    """Give a Bayer matrix around 0, its values a whole palette step apart at most."""
    if doublings == 0:
        return np.zeros((1, 1))
    share = 4**doublings
    smaller = share * _bayer(doublings - 1)
    quarters = [[smaller - 1.5, smaller + 0.5], [smaller + 1.5, smaller - 0.5]]
    matrix: NDArray[np.float64] = np.block(quarters) / share
    return matrix


@node(
    "ImageAddNoise",
    category="image",
    module="comfy_extras.nodes_images",
    required={
        "image": IMAGE,
        "seed": [
            "INT",
            {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True},
        ],
        "strength": fraction(0.5),
    },
    outputs=("IMAGE",),
)
def image_add_noise(image: Pixels, seed: int, strength: float) -> Result:
    """Add normally distributed noise.

    The distribution is ComfyUI's, the numbers are not: torch's generator exists only in torch.
    """
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    return (np.clip(image + strength * noise, 0, 1).astype(np.float32),)


NODES = (image_blend, image_blur, image_sharpen, image_quantize, image_add_noise)
