from __future__ import annotations

from typing import Any

import numpy as np
import pytest

IMAGE = np.random.default_rng(4).random((2, 6, 8, 3), np.float32)


def test_colours_are_inverted(run: Any) -> None:
    """White becomes black."""
    assert np.allclose(run("ImageInvert", image=IMAGE)[0] + IMAGE, 1)


@pytest.mark.parametrize(
    ("width", "height", "x", "y", "shape"),
    [(3, 2, 1, 1, (2, 3)), (50, 50, 5, 4, (2, 3)), (4, 4, 900, 900, (1, 1))],
)
def test_a_crop_stays_inside(
    run: Any, width: int, height: int, x: int, y: int, shape: tuple[int, int]
) -> None:
    """At least the last pixel is left."""
    (cut,) = run("ImageCrop", image=IMAGE, width=width, height=height, x=x, y=y)

    assert cut.shape[1:3] == shape
    assert np.array_equal(cut[:, 0, 0], IMAGE[:, min(y, 5), min(x, 7)])


def test_pictures_are_flipped_and_turned(run: Any) -> None:
    """Turns are clockwise."""
    (down,) = run("ImageFlip", image=IMAGE, flip_method="x-axis: vertically")
    (aside,) = run("ImageFlip", image=IMAGE, flip_method="y-axis: horizontally")
    turned = {
        rotation: run("ImageRotate", image=IMAGE, rotation=rotation)[0]
        for rotation in ("none", "90 degrees", "180 degrees", "270 degrees")
    }

    assert np.array_equal(down[:, 0], IMAGE[:, -1])
    assert np.array_equal(aside[:, :, 0], IMAGE[:, :, -1])
    assert np.array_equal(turned["none"], IMAGE)
    assert np.array_equal(turned["90 degrees"][:, 0, -1], IMAGE[:, 0, 0])
    assert np.array_equal(turned["180 degrees"][:, -1, -1], IMAGE[:, 0, 0])
    assert np.array_equal(turned["270 degrees"][:, -1, 0], IMAGE[:, 0, 0])


def test_a_pad_is_grey_and_marked(run: Any) -> None:
    """The mask is 1 outside, and falls off inside towards the sides that grew."""
    image, mask = run(
        "ImagePadForOutpaint", image=IMAGE, left=2, top=0, right=0, bottom=1, feathering=2
    )

    assert image.shape == (2, 7, 10, 3)
    assert np.allclose(image[:, :, :2], 0.5)
    assert np.array_equal(image[:, :6, 2:], IMAGE)
    assert mask.shape == (1, 7, 10)
    assert mask[0, 0].tolist() == [1, 1, 1, 0.25, 0, 0, 0, 0, 0, 0]
    assert mask[0, :, 9].tolist() == [0, 0, 0, 0, 0, 0.25, 1]


def test_a_wide_feathering_is_left_out(run: Any) -> None:
    """If it does not fit twice, the mask has a hard edge."""
    _, mask = run(
        "ImagePadForOutpaint", image=IMAGE, left=8, top=8, right=8, bottom=8, feathering=3
    )

    assert set(np.unique(mask)) == {0, 1}


def test_batches_are_joined_taken_and_repeated(run: Any) -> None:
    """The second batch takes the first one's size."""
    other = np.ones((1, 20, 20, 3), np.float32)
    (joined,) = run("ImageBatch", image1=IMAGE, image2=other)
    (same,) = run("ImageBatch", image1=IMAGE, image2=IMAGE)

    assert joined.shape == (3, 6, 8, 3)
    assert np.allclose(joined[2], 1)
    assert np.array_equal(same[2:], IMAGE)
    assert len(run("ImageFromBatch", image=joined, batch_index=1, length=9)[0]) == 2
    assert np.array_equal(
        run("ImageFromBatch", image=joined, batch_index=99, length=1)[0], joined[2:]
    )
    assert np.array_equal(run("RepeatImageBatch", image=IMAGE, amount=2)[0], same)


def test_batches_get_another_size(run: Any) -> None:
    """A list of batches becomes a list of batches; the last may be smaller."""
    (batches,) = run("RebatchImages", images=[IMAGE, IMAGE, IMAGE[:1]], batch_size=[2])

    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_a_batch_is_measured(run: Any) -> None:
    """Width comes first."""
    assert run("GetImageSize", image=IMAGE) == (8, 6, 2)
