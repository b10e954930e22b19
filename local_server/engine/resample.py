"""Resizing as torch's `interpolate` (corners not aligned, no antialiasing) and Pillow do it.

Each axis is resized on its own: every output position is a weighted sum of a few input positions,
its taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from local_server.engine.schema import Pixels

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
# Shape of the cubic curve; torch's value, Pillow's is -0.5.
CUBIC = -0.75


@dataclass(frozen=True, slots=True)
class Taps:
    """The input positions that make up each output position of an axis.

    Attributes:
        places: input positions, (taps, length of the output).
        weights: their shares, the same shape.
    """

    places: NDArray[np.intp]
    weights: NDArray[np.float32]

    def apply(self, pixels: Pixels, axis: int) -> Pixels:
        """Resize one axis."""
        shape = [1] * pixels.ndim
        shape[axis] = -1
        result: Pixels | None = None
        for places, weights in zip(self.places, self.weights, strict=True):
            part = pixels.take(places, axis) * weights.reshape(shape)
            result = part if result is None else np.add(result, part, out=result)
        assert result is not None
        return result


def _centres(size: int, new_size: int) -> NDArray[np.float32]:
    """Give where the centres of the output positions lie in the input."""
    steps = np.arange(new_size, dtype=np.float32) + np.float32(0.5)
    return steps * np.float32(size / new_size)


def _nearest(size: int, new_size: int) -> Taps:
    places = np.floor(_centres(size, new_size)).astype(np.intp)
    return Taps(np.minimum(places, size - 1)[np.newaxis], np.ones((1, new_size), np.float32))


def _bilinear(size: int, new_size: int) -> Taps:
    centres = np.maximum(_centres(size, new_size) - np.float32(0.5), 0)
    left = np.minimum(np.floor(centres).astype(np.intp), size - 1)
    share = np.clip(centres - left, 0, 1).astype(np.float32)
    places = np.stack([left, np.minimum(left + 1, size - 1)])
    return Taps(places, np.stack([1 - share, share]))


def _bicubic(size: int, new_size: int) -> Taps:
    centres = _centres(size, new_size) - np.float32(0.5)
    left = np.floor(centres)
    share = centres - left

    def near(distance: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1

    def far(distance: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC

    weights = np.stack([far(share + 1), near(share), near(1 - share), far(2 - share)])
    places = left.astype(np.intp) + np.arange(-1, 3)[:, np.newaxis]
    return Taps(np.clip(places, 0, size - 1), weights.astype(np.float32))


def _area(size: int, new_size: int) -> Taps:
    """Average all input positions that an output position touches, each in full."""
    steps = np.arange(new_size)
    starts = steps * size // new_size
    counts = -(-(steps + 1) * size // new_size) - starts
    offsets = np.arange(counts.max())[:, np.newaxis]
    weights = np.where(offsets < counts, 1 / counts, 0).astype(np.float32)
    return Taps(np.minimum(starts + offsets, size - 1), weights)


_TAPS: dict[str, Callable[[int, int], Taps]] = {
    "nearest-exact": _nearest,
    "bilinear": _bilinear,
    "area": _area,
    "bicubic": _bicubic,
}


def resize(pixels: Pixels, width: int, height: int, method: str) -> Pixels:
    """Resize a batch of pictures (batch, height, width, channels).

    Raises:
        ValueError: a size is 0, or the method is unknown.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture cannot be resized to {width} by {height}")
    if method == "lanczos":
        return _lanczos(pixels, width, height)
    if method not in _TAPS:
        raise ValueError(f"unknown way to resize: {method}")
    taps = _TAPS[method]
    rows = taps(pixels.shape[1], height).apply(pixels, 1)
    return taps(pixels.shape[2], width).apply(rows, 2)


def resize_masks(masks: Pixels, width: int, height: int) -> Pixels:
    """Resize masks (batch, height, width) bilinearly."""
    return resize(masks[..., np.newaxis], width, height, "bilinear")[..., 0]


def _lanczos(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize by Pillow, in 8 bits."""
    levels = np.clip(255.0 * pixels, 0, 255).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.LANCZOS))
        for one in levels
    ]
    return np.stack(resized).astype(np.float32) / np.float32(255)


def crop_to_shape(pixels: Pixels, width: int, height: int) -> Pixels:
    """Cut a batch evenly to the shape that `width` by `height` has."""
    old_height, old_width = pixels.shape[1:3]
    old, new = old_width / old_height, width / height
    x = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    y = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    return pixels[:, y : old_height - y, x : old_width - x]
