from __future__ import annotations

from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(6)
MASK = RNG.random((2, 7, 9), np.float32)
OTHER = RNG.random((2, 4, 5), np.float32)


def test_channels_and_masks_become_each_other(run: Any) -> None:
    """A picture without alpha has no alpha mask."""
    image = RNG.random((1, 3, 3, 3), np.float32)
    (shown,) = run("MaskToImage", mask=MASK)

    assert np.array_equal(run("ImageToMask", image=image, channel="green")[0], image[..., 1])
    assert shown.shape == (2, 7, 9, 3)
    assert np.array_equal(shown[..., 2], MASK)
    with pytest.raises(IndexError):
        run("ImageToMask", image=image, channel="alpha")


def test_a_colour_is_marked(run: Any) -> None:
    """Values are rounded to 8 bits first."""
    image = np.array([[[[0x12, 0xAB, 0x9F], [0x12, 0xAB, 0xA0]]]], np.float32) / 255

    assert run("ImageColorToMask", image=image, color=0x12AB9F)[0].tolist() == [[[1, 0]]]


def test_masks_are_made_turned_around_cut_and_split(run: Any) -> None:
    """The small nodes do what their names say."""
    assert np.array_equal(
        run("SolidMask", value=0.25, width=3, height=2)[0], np.full((1, 2, 3), 0.25)
    )
    assert np.allclose(run("InvertMask", mask=MASK)[0], 1 - MASK)
    assert np.array_equal(
        run("CropMask", mask=MASK, x=2, y=3, width=4, height=90)[0], MASK[:, 3:, 2:6]
    )
    assert np.array_equal(run("ThresholdMask", mask=MASK, value=0.5)[0], MASK > 0.5)


@pytest.mark.parametrize(
    ("operation", "combine"),
    [
        ("multiply", lambda a, b: a * b),
        ("add", lambda a, b: min(a + b, 1.0)),
        ("subtract", lambda a, b: max(a - b, 0.0)),
        ("and", lambda a, b: float(round(a) and round(b))),
        ("or", lambda a, b: float(round(a) or round(b))),
        ("xor", lambda a, b: float(round(a) != round(b))),
    ],
)
def test_masks_are_combined_where_they_meet(run: Any, operation: str, combine: Any) -> None:
    """Outside the second mask the first one stays."""
    (result,) = run("MaskComposite", destination=MASK, source=OTHER, x=6, y=5, operation=operation)
    expected = MASK.copy()
    expected[:, 5:, 6:] = np.vectorize(combine)(MASK[:, 5:, 6:], OTHER[:, :2, :3])

    assert np.allclose(result, expected, atol=1e-6)


def test_sides_are_feathered(run: Any) -> None:
    """Left and top fade from their edge; right and bottom count from the first line, as there."""
    ones = np.ones((1, 4, 6), np.float32)
    (left,) = run("FeatherMask", mask=ones, left=4, top=0, right=0, bottom=0)
    (bottom,) = run("FeatherMask", mask=ones, left=0, top=0, right=0, bottom=2)

    assert left[0, 0].tolist() == [0.25, 0.5, 0.75, 1, 1, 1]
    assert bottom[0, :, 0].tolist() == [0.5, 1, 1, 1]
    assert ones.all()


@pytest.mark.parametrize("tapered", [True, False])
@pytest.mark.parametrize("expand", [-2, 0, 1, 3])
def test_masks_grow_by_the_best_of_their_neighbours(run: Any, expand: int, tapered: bool) -> None:
    """Each step takes the maximum, or to shrink the minimum, of the cross or the square."""
    (result,) = run("GrowMask", mask=MASK, expand=expand, tapered_corners=tapered)
    expected = MASK
    pick = np.min if expand < 0 else np.max
    for _ in range(abs(expand)):
        padded = np.pad(expected, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = [
            padded[:, 1 + dy : 8 + dy, 1 + dx : 10 + dx]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if not (tapered and dx and dy)
        ]
        expected = pick(around, axis=0)

    assert np.array_equal(result, expected)


def test_growth_ends_when_nothing_changes(run: Any) -> None:
    """A huge radius is no more work than the mask is wide."""
    (result,) = run("GrowMask", mask=MASK, expand=16384, tapered_corners=False)

    assert np.array_equal(result, np.broadcast_to(MASK.max((1, 2), keepdims=True), MASK.shape))
