from __future__ import annotations

from typing import Any

import numpy as np

RNG = np.random.default_rng(8)
BELOW = RNG.random((2, 8, 10, 3), np.float32)
ABOVE = RNG.random((1, 4, 5, 3), np.float32)


def composite(run: Any, **inputs: Any) -> Any:
    place = {"x": 0, "y": 0, "resize_source": False}
    return run("ImageCompositeMasked", destination=BELOW, **{"source": ABOVE, **place, **inputs})[0]


def test_a_picture_is_put_on_another(run: Any) -> None:
    """What hangs over the edge is left out; the source is repeated for the batch."""
    result = composite(run, x=8, y=6)

    assert np.array_equal(result[1, 6:, 8:], ABOVE[0, :2, :2])
    assert np.array_equal(result[:, :6], BELOW[:, :6])
    assert not np.shares_memory(result, BELOW)


def test_a_mask_is_brought_to_the_sources_size(run: Any) -> None:
    """Where it is a half, both are mixed."""
    result = composite(run, mask=np.full((1, 9, 9), 0.5, np.float32))

    assert np.allclose(result[:, :4, :5], (BELOW[:, :4, :5] + ABOVE) / 2, atol=1e-6)


def test_the_source_can_be_brought_to_the_whole_size(run: Any) -> None:
    """Then it covers everything."""
    grey = np.full((3, 2, 2, 4), 0.5, np.float32)

    assert np.allclose(composite(run, source=grey, resize_source=True), 0.5)


def test_alpha_is_split_and_joined(run: Any) -> None:
    """The mask is the opposite of alpha, and is brought to the picture's size."""
    alpha = RNG.random((2, 8, 10), np.float32)
    (joined,) = run("JoinImageWithAlpha", image=BELOW, alpha=alpha)
    image, mask = run("SplitImageWithAlpha", image=joined)
    (one,) = run("JoinImageWithAlpha", image=BELOW, alpha=np.ones((1, 3, 3), np.float32))

    assert np.array_equal(image, BELOW)
    assert np.allclose(mask, alpha, atol=1e-6)
    assert one.shape == (1, 8, 10, 4)
    assert not one[..., 3].any()
    assert not run("SplitImageWithAlpha", image=BELOW)[1].any()
