from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from local_server.engine.resample import METHODS, crop_to_shape, resize, resize_masks

RNG = np.random.default_rng(7)
SIZES = [(7, 7), (7, 3), (5, 12), (9, 1), (1, 6), (10, 7)]


def cubic(x: float) -> float:
    """The cubic convolution kernel with a = -0.75."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def share(method: str, size: int, new_size: int, place: int, source: int) -> float:
    """How much of an input position goes into an output position, straight from the definition."""
    scale = size / new_size
    if method == "nearest-exact":
        return float(source == min(int((place + 0.5) * scale), size - 1))
    if method == "area":
        start, end = math.floor(place * scale), math.ceil((place + 1) * scale)
        return 1 / (end - start) if start <= source < end else 0.0
    centre = (place + 0.5) * scale - 0.5
    if method == "bilinear":
        centre = min(max(centre, 0), size - 1)
        return max(0.0, 1 - abs(centre - source))
    taps = range(math.floor(centre) - 1, math.floor(centre) + 3)
    return sum(cubic(centre - tap) for tap in taps if min(max(tap, 0), size - 1) == source)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "lanczos"])
@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_each_axis_is_a_weighted_sum(method: str, size: int, new_size: int) -> None:
    """Both axes follow the method's definition, written out position by position."""
    image = RNG.random((2, size, size, 3), np.float32)
    matrix = np.array(
        [[share(method, size, new_size, i, j) for j in range(size)] for i in range(new_size)]
    )
    expected = np.einsum("yh,xw,bhwc->byxc", matrix, matrix, image)

    assert np.allclose(resize(image, new_size, new_size, method), expected, atol=1e-5)
    assert resize(image, new_size, new_size, method).dtype == np.float32


def test_lanczos_is_pillows() -> None:
    """It works in 8 bits, as ComfyUI's does."""
    image = RNG.random((1, 8, 6, 3), np.float32)
    picture = Image.fromarray((image[0] * 255).astype(np.uint8))
    expected = np.asarray(picture.resize((9, 5), Image.Resampling.LANCZOS)) / 255

    assert np.allclose(resize(image, 9, 5, "lanczos")[0], expected)


def test_width_and_height_are_not_mixed_up() -> None:
    """The shape is (batch, height, width, channels)."""
    assert resize(np.zeros((2, 4, 6, 3), np.float32), 5, 9, "bilinear").shape == (2, 9, 5, 3)
    assert resize_masks(np.zeros((2, 4, 6), np.float32), 5, 9).shape == (2, 9, 5)


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [(10, 10, (1, 4, 4, 1)), (30, 10, (1, 2, 6, 1)), (6, 4, (1, 4, 6, 1)), (1, 4, (1, 4, 2, 1))],
)
def test_pictures_are_cut_evenly(width: int, height: int, shape: tuple[int, ...]) -> None:
    """What is too wide or too high goes from both sides."""
    assert crop_to_shape(np.zeros((1, 4, 6, 1), np.float32), width, height).shape == shape


@pytest.mark.parametrize(("width", "height", "method"), [(0, 5, "area"), (5, 5, "sharpest")])
def test_what_cannot_be_done_is_an_error(width: int, height: int, method: str) -> None:
    """There are no empty pictures and no unknown methods."""
    with pytest.raises(ValueError, match=r"cannot be resized|unknown way"):
        resize(np.zeros((1, 2, 2, 3), np.float32), width, height, method)
