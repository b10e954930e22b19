from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from local_server.engine.progress import InterruptError, Interruption, Progress, Reporter
from local_server.engine.sockets import Sockets

RNG = np.random.default_rng(5)
IMAGE = RNG.random((2, 12, 10, 3), np.float32)
OTHER = RNG.random((2, 12, 10, 3), np.float32)


def soft_light(below: float, above: float) -> float:
    """The W3C's definition, for one value."""
    if above <= 0.5:
        return below - (1 - 2 * above) * below * (1 - below)
    curve = ((16 * below - 12) * below + 4) * below if below <= 0.25 else below**0.5
    return below + (2 * above - 1) * (curve - below)


MODES: dict[str, Any] = {
    "normal": lambda below, above: above,
    "multiply": lambda below, above: below * above,
    "screen": lambda below, above: below + above - below * above,
    "overlay": lambda below, above: (
        2 * below * above if below <= 0.5 else 1 - 2 * (1 - below) * (1 - above)
    ),
    "soft_light": soft_light,
    "difference": lambda below, above: below - above,
}


@pytest.mark.parametrize("mode", MODES)
def test_blends_follow_their_definition(run: Any, mode: str) -> None:
    """Each value is mixed with the blended one by the factor, and cut to the range."""
    (result,) = run("ImageBlend", image1=IMAGE, image2=OTHER, blend_factor=0.3, blend_mode=mode)
    mixed = np.vectorize(MODES[mode])(IMAGE, OTHER)

    assert np.allclose(result, np.clip(IMAGE * 0.7 + mixed * 0.3, 0, 1), atol=1e-5)


def test_a_blend_brings_the_second_to_the_firsts_size_and_channels(run: Any) -> None:
    """An alpha that only the second has is dropped; one that only the first has is an error."""
    clear = np.full((2, 6, 6, 4), 0.5, np.float32)
    inputs = {"blend_factor": 1.0, "blend_mode": "normal"}
    (three,) = run("ImageBlend", image1=IMAGE, image2=clear, **inputs)

    assert three.shape == IMAGE.shape
    assert np.allclose(three, 0.5)
    with pytest.raises(ValueError, match="alpha"):
        run("ImageBlend", image1=clear, image2=IMAGE, **inputs)


def test_an_unknown_blend_is_an_error(run: Any) -> None:
    """It is found while the node runs."""
    with pytest.raises(ValueError, match="Unsupported blend mode: zzz"):
        run("ImageBlend", image1=IMAGE, image2=OTHER, blend_factor=1.0, blend_mode="zzz")


def blurred(radius: int, sigma: float) -> np.ndarray[Any, Any]:
    """Blur by the two-dimensional sum itself."""
    steps = np.linspace(-1, 1, 2 * radius + 1)
    kernel = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(IMAGE, ((0, 0), (radius,) * 2, (radius,) * 2, (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(1, 2))
    return np.einsum("bhwcij,ij->bhwc", windows, kernel)


@pytest.mark.parametrize(("radius", "sigma"), [(1, 1.0), (4, 0.5), (9, 10.0)])
def test_blur_and_sharpen_use_a_mirrored_border(run: Any, radius: int, sigma: float) -> None:
    """The blur is a weighted sum; sharpening moves away from it, ten times alpha."""
    (blur,) = run("ImageBlur", image=IMAGE, blur_radius=radius, sigma=sigma)
    (sharp,) = run("ImageSharpen", image=IMAGE, sharpen_radius=radius, sigma=sigma, alpha=0.2)
    expected = blurred(radius, sigma)

    assert np.allclose(blur, expected, atol=1e-5)
    assert np.allclose(sharp, np.clip(3 * IMAGE - 2 * expected, 0, 1), atol=1e-4)


def test_a_radius_must_fit_into_the_picture(run: Any) -> None:
    """The border cannot be mirrored farther than the picture goes."""
    with pytest.raises(ValueError, match="too small"):
        run("ImageBlur", image=IMAGE, blur_radius=10, sigma=1.0)


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-16"])
def test_each_picture_gets_few_colours(run: Any, dither: str) -> None:
    """The palette is each picture's own, and close to it."""
    (result,) = run("ImageQuantize", image=IMAGE, colors=8, dither=dither)

    for before, after in zip(IMAGE, result, strict=True):
        assert len(np.unique(after.reshape(-1, 3), axis=0)) <= 8
        assert np.abs(before - after).mean() < 0.3
    assert result.dtype == np.float32


def test_noise_has_the_strength_asked_and_follows_the_seed(run: Any) -> None:
    """The same seed gives the same noise; values stay in the range."""
    grey = np.full((1, 64, 64, 3), 0.5, np.float32)
    one, again, other = (
        run("ImageAddNoise", image=grey, seed=seed, strength=0.1)[0] for seed in (1, 1, 2)
    )

    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.std() == pytest.approx(0.1, rel=0.05)
    assert 0 <= one.min() < one.max() <= 1


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("ImageBlur", {"blur_radius": 1, "sigma": 1.0}),
        ("ImageSharpen", {"sharpen_radius": 1, "sigma": 1.0, "alpha": 1.0}),
        ("ImageQuantize", {"colors": 4, "dither": "none"}),
        ("ImageScaleBy", {"upscale_method": "area", "scale_by": 2.0}),
    ],
)
def test_a_slow_node_heeds_an_interrupt_in_its_midst(
    run: Any, name: str, inputs: dict[str, Any]
) -> None:
    """The next prompt need not wait for a large batch."""
    interruption = Interruption()
    reporter = Reporter(Progress(Sockets(dict, {}), "p"), interruption, "1")
    run(name, {"reporter": reporter}, image=IMAGE, **inputs)
    interruption.ask()

    with pytest.raises(InterruptError):
        run(name, {"reporter": reporter}, image=IMAGE, **inputs)


def test_pictures_of_a_batch_do_not_touch_each_other(run: Any) -> None:
    """Each comes out as it would alone."""
    (both,) = run("ImageBlur", image=IMAGE, blur_radius=3, sigma=0.5)
    for place in range(2):
        (alone,) = run("ImageBlur", image=IMAGE[place : place + 1], blur_radius=3, sigma=0.5)
        assert np.array_equal(both[place], alone[0])
