from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from local_server.engine.folders import Folders

ORIENTATION = 0x0112


def test_a_picture_is_scaled_to_one(run: Any, folders: Folders) -> None:
    """Colours go from 0 to 1, and the mask of an opaque picture is a small black one."""
    Image.new("RGB", (5, 3), (255, 51, 0)).save(folders.input / "a.png")
    image, mask = run("LoadImage", image="a.png")

    assert image.shape == (1, 3, 5, 3)
    assert image.dtype == np.float32
    assert np.allclose(image[0, 0, 0], [1, 0.2, 0])
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


def test_transparency_becomes_the_mask(run: Any, folders: Folders) -> None:
    """The mask is 1 where nothing is seen, also for a palette's transparent colour."""
    Image.new("RGBA", (4, 4), (9, 9, 9, 51)).save(folders.output / "a.png")
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0] * 9 + [255, 0, 0])
    palette.save(folders.input / "b.png", transparency=3)

    assert np.allclose(run("LoadImageOutput", image="a.png [output]")[1], 0.8)
    assert np.allclose(run("LoadImage", image="b.png")[1], 1)


def test_photographs_are_turned_upright(run: Any, folders: Folders) -> None:
    """The EXIF orientation is applied."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (8, 4)).save(folders.input / "a.jpg", exif=exif)

    assert run("LoadImage", image="a.jpg")[0].shape == (1, 8, 4, 3)


def test_frames_become_a_batch(run: Any, folders: Folders) -> None:
    """An animated file gives all its frames."""
    frames = [Image.new("RGB", (4, 4), (i * 50, 0, 0)) for i in range(3)]
    path = folders.input / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    image, mask = run("LoadImage", image="a.webp")

    assert image.shape == (3, 4, 4, 3)
    assert np.allclose(image[:, 0, 0, 0], np.array([0, 50, 100]) / 255)
    assert len(mask) == 3


def test_frames_of_another_size_are_left_out(run: Any, folders: Folders) -> None:
    """A batch has one size: the first frame's."""
    frames = [Image.new("RGB", size) for size in ((4, 4), (8, 8), (4, 4))]
    frames[0].save(folders.input / "a.tiff", save_all=True, append_images=frames[1:])

    assert run("LoadImage", image="a.tiff")[0].shape == (2, 4, 4, 3)


def test_further_views_of_a_photograph_are_left_out(run: Any, folders: Folders) -> None:
    """An MPO file holds several pictures of one scene; the first counts."""
    views = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), 255)]
    views[0].save(folders.input / "a.jpg", format="MPO", save_all=True, append_images=views[1:])

    assert len(run("LoadImage", image="a.jpg")[0]) == 1


def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(run: Any, folders: Folders) -> None:
    """The missing rows are filled; a file without any row is an error."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    path = folders.input / "a.jpg"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert run("LoadImage", image="a.jpg")[0].shape == (1, 64, 64, 3)
    path.write_bytes(content[:20])

    with pytest.raises(OSError, match=r".+"):
        run("LoadImage", image="a.jpg")


def test_grey_of_32_bits_is_scaled_down(run: Any, folders: Folders) -> None:
    """Its values are divided by 255 before they are cut to 8 bits."""
    Image.fromarray(np.full((4, 4), 255 * 128, np.int32)).save(folders.input / "a.tiff")

    assert np.allclose(run("LoadImage", image="a.tiff")[0], 128 / 255)


@pytest.mark.parametrize(
    ("channel", "value"), [("red", 0.2), ("green", 0.4), ("blue", 0.6), ("alpha", 0.2)]
)
def test_one_channel_becomes_a_mask(run: Any, folders: Folders, channel: str, value: float) -> None:
    """Alpha is turned around: transparent is 1."""
    Image.new("RGBA", (4, 2), (51, 102, 153, 204)).save(folders.input / "a.png")
    (mask,) = run("LoadImageMask", image="a.png", channel=channel)

    assert mask.shape == (1, 2, 4)
    assert np.allclose(mask, value)


def test_a_picture_can_be_made_from_nothing(run: Any) -> None:
    """The colour is a number 0xRRGGBB."""
    (image,) = run("EmptyImage", width=3, height=2, batch_size=4, color=0x3300FF)

    assert image.shape == (4, 2, 3, 3)
    assert np.allclose(image[1, 1, 1], [0.2, 0, 1])
