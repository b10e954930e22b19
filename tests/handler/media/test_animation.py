"""Timing animations from their headers."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from handler.media.animation import STILL, Timing, timing


def animate(path, delays, **options):
    frames = [Image.new("RGB", (30, 20), (i * 40, 90, 9)) for i in range(len(delays))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, **options)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_delays_are_summed(tmp_path, suffix):
    """Uneven delays add up."""
    path = tmp_path / f"a.{suffix}"
    animate(path, [40, 500, 30])

    found = timing(path, f"image/{suffix}")

    assert (3, pytest.approx(0.57)) == (found.frames, found.duration_s)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif", "jpeg"])
def test_a_still_has_one_frame_and_no_duration(tmp_path, suffix):
    """A single picture plays no time."""
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (30, 20)).save(path)

    assert timing(path, f"image/{suffix}") == STILL


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
@pytest.mark.parametrize("kept", [0, 11, 25, 31, 60, 200])
def test_a_cut_file_raises_nothing(tmp_path, suffix, kept):
    """Wherever the file ends, an answer comes."""
    path = tmp_path / f"a.{suffix}"
    animate(path, [40, 50, 30])
    path.write_bytes(path.read_bytes()[:kept])

    assert isinstance(timing(path, f"image/{suffix}"), Timing)


def test_a_picture_of_a_gif_without_its_own_delay_counts_as_none(tmp_path):
    """GIF delays are optional; local colour tables and comments are stepped over."""
    picture = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0x80) + b"\0" * 6 + b"\x02\x02\x44\x01\0"
    delay = b"!\xf9\x04\0" + struct.pack("<H", 25) + b"\0\0"
    path = tmp_path / "a.gif"
    path.write_bytes(
        b"GIF89a"
        + struct.pack("<2H3B", 1, 1, 0, 0, 0)
        + b"!\xfe\x03abc\0"
        + delay
        + picture * 2
        + b";"
    )

    assert Timing(2, 0.25) == timing(path, "image/gif")
