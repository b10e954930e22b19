from __future__ import annotations

from typing import Any

import numpy as np
import pytest

IMAGE = np.random.default_rng(2).random((2, 20, 30, 3), np.float32)


@pytest.mark.parametrize(
    ("width", "height", "crop", "shape"),
    [
        (60, 10, "disabled", (10, 60)),
        (15, 0, "disabled", (10, 15)),
        (0, 40, "disabled", (40, 60)),
        (0, 0, "center", (20, 30)),
        (8, 8, "center", (8, 8)),
        (1, 0, "disabled", (1, 1)),
    ],
)
def test_a_side_may_follow_from_the_other(
    run: Any, width: int, height: int, crop: str, shape: tuple[int, int]
) -> None:
    """Two sides of 0 leave the picture as it is."""
    (scaled,) = run(
        "ImageScale",
        image=IMAGE,
        upscale_method="bilinear",
        width=width,
        height=height,
        crop=crop,
    )

    assert scaled.shape == (2, *shape, 3)


def test_a_centred_crop_keeps_the_middle(run: Any) -> None:
    """Nothing is squeezed: at the same scale the middle is cut out."""
    size = {"width": 20, "height": 20}
    (scaled,) = run(
        "ImageScale", image=IMAGE, upscale_method="nearest-exact", crop="center", **size
    )

    assert np.array_equal(scaled, IMAGE[:, :, 5:25])


def test_a_factor_scales_both_sides(run: Any) -> None:
    """Sides are rounded."""
    (scaled,) = run("ImageScaleBy", image=IMAGE, upscale_method="area", scale_by=0.33)

    assert scaled.shape == (2, 7, 10, 3)


def test_a_number_of_pixels_keeps_the_shape(run: Any) -> None:
    """A megapixel is 1024 by 1024."""
    (scaled,) = run(
        "ImageScaleToTotalPixels", image=IMAGE, upscale_method="nearest-exact", megapixels=0.01
    )

    assert scaled.shape == (2, 84, 125, 3)
