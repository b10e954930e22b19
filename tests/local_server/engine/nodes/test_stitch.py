from __future__ import annotations

from typing import Any

import numpy as np
import pytest

FIRST = np.full((1, 4, 6, 3), 0.25, np.float32)
SECOND = np.full((2, 8, 4, 4), 0.5, np.float32)


def stitch(run: Any, direction: str, **more: Any) -> Any:
    inputs = {"match_image_size": False, "spacing_width": 0, "spacing_color": "white"}
    inputs |= {"image1": FIRST, "image2": SECOND, **more}
    return run("ImageStitch", direction=direction, **inputs)[0]


def test_one_picture_alone_is_given_on(run: Any) -> None:
    """Without a second picture there is nothing to do."""
    assert stitch(run, "right", image2=None) is FIRST


@pytest.mark.parametrize(
    ("direction", "shape", "first"),
    [
        ("right", (2, 8, 10, 4), (4, 0)),
        ("left", (2, 8, 10, 4), (4, 9)),
        ("down", (2, 12, 6, 4), (0, 3)),
        ("up", (2, 12, 6, 4), (11, 3)),
    ],
)
def test_the_second_lies_on_the_side_named(
    run: Any, direction: str, shape: tuple[int, ...], first: tuple[int, int]
) -> None:
    """Batches and channels are filled up, and the smaller side is padded."""
    result = stitch(run, direction)

    assert result.shape == shape
    assert np.allclose(result[1][first], [0.25, 0.25, 0.25, 1])


def test_the_second_takes_the_firsts_size(run: Any) -> None:
    """Height for side by side, width for above each other."""
    assert stitch(run, "right", match_image_size=True).shape == (2, 4, 8, 4)
    assert stitch(run, "up", match_image_size=True).shape == (2, 16, 6, 4)


@pytest.mark.parametrize(
    ("color", "level", "pad"),
    [("white", [1, 1, 1, 1], 1), ("red", [1, 0, 0, 1], 0), ("black", [0, 0, 0, 1], 0)],
)
def test_a_gap_has_an_even_width(run: Any, color: str, level: list[float], pad: float) -> None:
    """It has the colour named; padding is white or black."""
    result = stitch(run, "right", spacing_width=3, spacing_color=color)

    assert result.shape[2] == 14
    assert result[0, 4, 6:10].tolist() == [level] * 4
    assert result[0, 0, 0, 0] == pad
