"""Describing files by their headers."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
from PIL import Image

from handler.media.describe import describe
from handler.records import MediaInfo

SAMPLES = Path(__file__).parent / "samples"


@pytest.mark.parametrize(
    ("suffix", "mime"),
    [
        (".png", "image/png"),
        (".jpg", "image/jpeg"),
        (".gif", "image/gif"),
        (".webp", "image/webp"),
        (".bmp", "image/bmp"),
        (".tiff", "image/tiff"),
        (".avif", "image/avif"),
    ],
)
def test_a_still_has_its_size_and_one_frame(tmp_path, suffix, mime):
    """Width and height come from the header, whatever the name says."""
    path = tmp_path / f"file{suffix}"
    Image.new("RGB", (60, 40), (9, 9, 9)).save(path)

    expected = MediaInfo(mime, "image", width=60, height=40, frames=1)
    assert expected == describe(path, "misleading.txt")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_an_animation_has_frames_and_a_duration(tmp_path, suffix):
    """The pictures are counted and their times summed."""
    path = tmp_path / f"file{suffix}"
    frames = [Image.new("RGB", (60, 40), (i * 60, 9, 9)) for i in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 50])

    info = describe(path, path.name)

    assert (4, pytest.approx(0.65)) == (info.frames, info.duration_s)
    assert (info.width, info.height) == (60, 40)


@pytest.mark.parametrize(
    "name",
    ["film.mp4", "film.mov", "film.m4v", "film.3gp", "film.webm", "film.mkv", "film.flv"],
)
def test_a_film_has_size_and_duration(name):
    """MediaInfo reads them from the container."""
    info = describe(SAMPLES / name, name)

    assert (info.kind, info.width, info.height) == ("video", 64, 48)
    assert info.duration_s == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "mime", "seconds"),
    [
        ("tone.mp3", "audio/mpeg", 1.04),
        ("tone.flac", "audio/flac", 0.1),
        ("tone.m4a", "audio/mp4", 0.25),
        ("tone.ogg", "audio/ogg", 0.26),
        ("tone.opus", "audio/opus", 0.26),
        ("tone.mp4", "audio/mp4", 0.25),
        ("tone.webm", "audio/webm", 0.26),
    ],
)
def test_sound_has_a_duration_and_no_size(name, mime, seconds):
    """An MP4 or WebM without pictures is sound."""
    info = describe(SAMPLES / name, name)

    assert (mime, "audio", None, None) == (info.mime, info.kind, info.width, info.height)
    assert info.duration_s == pytest.approx(seconds, abs=0.01)


def test_a_wave_file_has_its_length(tmp_path):
    """Uncompressed sound is timed by its bytes."""
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\0" * 4000)

    assert MediaInfo("audio/wav", "audio", duration_s=0.5) == describe(path, "a.wav")


@pytest.mark.parametrize(
    ("content", "filename", "mime", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "cut.png", "image/png", "image"),
        (b"GIF89a\x01", "cut.gif", "image/gif", "image"),
        (b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\x02", "cut.webp", "image/webp", "image"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "cut.avif", "image/avif", "image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "cut.mp4", "video/mp4", "video"),
        (b"\xfc\xfd\xfe\xff" * 9, "garbage.mp4", "video/mp4", "video"),
        (b"", "empty.png", "image/png", "image"),
        (b"\xfc\xfd\xfe\xff", "what", "application/octet-stream", "file"),
    ],
)
def test_a_broken_file_keeps_its_type_and_raises_nothing(tmp_path, content, filename, mime, kind):
    """What cannot be read is None."""
    path = tmp_path / "f"
    path.write_bytes(content)

    assert MediaInfo(mime, kind) == describe(path, filename)


def test_a_text_is_told_by_content_and_refined_by_name(tmp_path):
    """A CSV is plain text by content and CSV by name."""
    path = tmp_path / "f"
    path.write_text("a;b\n1;2\n")

    assert MediaInfo("text/csv", "text") == describe(path, "table.csv")


def test_a_very_large_picture_is_described(tmp_path):
    """Pillow's guard against decompression bombs does not stand in the way: nothing is decoded."""
    path = tmp_path / "large.png"
    Image.new("1", (20000, 10000)).save(path)

    info = describe(path, "large.png")

    assert (info.width, info.height) == (20000, 10000)


def test_a_file_that_is_not_there_raises(tmp_path):
    """Only a file that cannot be read at all is an error."""
    with pytest.raises(FileNotFoundError):
        describe(tmp_path / "none", "none")
