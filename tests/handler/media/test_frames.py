"""Decoding animations and writing those that libvips cannot."""

from __future__ import annotations

import pytest
from PIL import Image

from handler.media import frames
from handler.media.options import AvifOptions, PngOptions

RED, CLEAR = (255, 0, 0, 255), (0, 0, 0, 0)


def animate(path, colours, **options):
    first, *others = [Image.new("RGBA", (8, 6), colour) for colour in colours]
    first.save(path, save_all=True, append_images=others, duration=70, **options)
    return path


def test_pictures_come_in_one_mode(tmp_path):
    """Where one has alpha, all have: they are stacked into one image later."""
    path = animate(tmp_path / "a.png", [RED, CLEAR, RED])
    pictures = frames.read(path)

    assert [image.mode for image in pictures.images] == ["RGBA"] * 3
    assert pictures.delays_ms == [70, 70, 70]


def test_the_first_picture_alone_may_be_read(tmp_path):
    """A still needs no more."""
    path = animate(tmp_path / "a.png", [RED, CLEAR])
    assert len(frames.read(path, first_only=True).images) == 1


def test_a_stack_has_the_fields_that_the_webp_writer_reads(tmp_path):
    """Height of a page, delays and runs."""
    stack = frames.to_vips(frames.read(animate(tmp_path / "a.png", [RED, CLEAR], loop=5)))

    assert (stack.width, stack.height, stack.bands) == (8, 12, 4)
    assert (stack.get("page-height"), stack.get("loop"), stack.get("delay")) == (6, 5, [70, 70])


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0"])
def test_a_broken_file_raises_an_os_error(tmp_path, content):
    """Whatever Pillow raises."""
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(OSError):
        frames.read(path)


def test_options_that_no_animation_has_are_refused(tmp_path):
    """Before anything is written."""
    pictures = frames.read(animate(tmp_path / "a.png", [RED, CLEAR]))
    target = tmp_path / "out"
    with pytest.raises(frames.AnimationOptionError, match="palette"):
        frames.write_apng(pictures, target, PngOptions.model_validate({"palette": True}))
    with pytest.raises(frames.AnimationOptionError, match="lossless"):
        frames.write_avif(pictures, target, AvifOptions.model_validate({"lossless": True}))
    assert not target.exists()
