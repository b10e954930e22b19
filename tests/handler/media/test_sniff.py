"""Recognising files by their first bytes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from handler.media.sniff import HEAD_BYTES, sniff

SAMPLES = Path(__file__).parent / "samples"


def encoded(format_name: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 90)).save(buffer, format_name, **options)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x" * 100)
    return buffer.getvalue()


def stl(normal: tuple[float, float, float] = (0, 0, 1), attribute: int = 0) -> bytes:
    triangle = struct.pack("<12fH", *normal, 0, 0, 0, 1, 0, 0, 0, 1, 0, attribute)
    return b"exported".ljust(80, b"\0") + struct.pack("<I", 2) + triangle * 2


@pytest.mark.parametrize(
    ("format_name", "mime"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("ICO", "image/x-icon"),
        ("AVIF", "image/avif"),
    ],
)
def test_images_as_pillow_writes_them_are_recognised(format_name, mime):
    """Each image format is told by the head of a real file."""
    assert sniff(encoded(format_name)) == mime


@pytest.mark.parametrize(
    ("name", "mime"),
    [
        ("film.mp4", "video/mp4"),
        ("film.m4v", "video/x-m4v"),
        ("film.mov", "video/quicktime"),
        ("film.3gp", "video/3gpp"),
        ("film.webm", "video/webm"),
        ("film.mkv", "video/x-matroska"),
        ("film.avi", "video/x-msvideo"),
        ("film.flv", "video/x-flv"),
        ("film.wmv", "video/x-ms-wmv"),
        ("film.mpg", "video/mpeg"),
        ("tone.mp3", "audio/mpeg"),
        ("tone.flac", "audio/flac"),
        ("tone.m4a", "audio/mp4"),
        ("tone.aac", "audio/aac"),
        ("tone.ogg", "audio/ogg"),
        ("tone.opus", "audio/ogg"),
    ],
)
def test_films_and_sounds_as_ffmpeg_writes_them_are_recognised(name, mime):
    """Each container is told by the first 512 bytes of a real file."""
    assert sniff((SAMPLES / name).read_bytes()[:512]) == mime


GLTF = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "accessors": []}

MADE_UP = [
    (b"\xff\xfb\x90\x64" + b"\0" * 60, "audio/mpeg"),
    (b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 30, "audio/wav"),
    (b"FORM\0\0\0\x20AIFFCOMM" + b"\0" * 30, "audio/aiff"),
    (b"OggS\0\x02" + b"\0" * 22 + b"\x80theora" + b"\0" * 30, "video/ogg"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "image/avif"),
    (b"\0\0\0\x14ftyp3g2a\0\0\0\0" + b"3g2a", "video/3gpp2"),
    (b"\0\0\0\x08wide\0\0\0\x20mdat", "video/quicktime"),
    (b"\xff\x0a\xfa\x7f\x01\x90", "image/jxl"),
    ((b"\x47" + b"\x1f" * 187) * 3, "video/mp2t"),
    (b"glTF\x02\0\0\0\x40\0\0\0", "model/gltf-binary"),
    (json.dumps(GLTF).encode(), "model/gltf+json"),
    (b"ply\nformat ascii 1.0\n", "model/ply"),
    (b"Kaydara FBX Binary  \0\x1a\0", "model/fbx"),
    (b"# cube\nv 0 0 0\nv 1.0 0 0\nv -1e-3 0 1\nf 1 2 3\n", "model/obj"),
    (b"solid cube\n  facet normal 0 0 1\n", "model/stl"),
    (stl(), "model/stl"),
    (zipped("scene.usdc"), "model/vnd.usdz+zip"),
    (zipped("a.txt"), "application/zip"),
    (b"PK\x05\x06" + b"\0" * 18, "application/zip"),
    (b"Rar!\x1a\x07\x01\0", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c\0\x04", "application/x-7z-compressed"),
    (b"\x1f\x8b\x08\0\0\0\0\0", "application/gzip"),
    (b"BZh91AY&SY\0\0", "application/x-bzip2"),
    (b"a.txt".ljust(257, b"\0") + b"ustar\x0000", "application/x-tar"),
    (struct.pack("<Q", 60) + b'{"__metadata__":{}}', "application/x-safetensors"),
    (b"%PDF-1.7\n", "application/pdf"),
    (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="x">', "image/svg+xml"),
    (b'{"a": 1}', "application/json"),
    (b"[1, 2]", "application/json"),
    ("Grüße\n".encode(), "text/plain"),
    ("Grüße".encode("utf-16"), "text/plain"),
]


@pytest.mark.parametrize(
    ("head", "mime"), MADE_UP, ids=[f"{m}-{i}" for i, (_, m) in enumerate(MADE_UP)]
)
def test_a_signature_is_recognised(head, mime):
    """Each further signature is told by the bytes that its format prescribes."""
    assert sniff(head) == mime


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"   \n",
        bytes(range(256)) * 4,
        b"\0" * 4096,
        b"RIFF\0\0\0\0XXXX",
        b"\xff\xef\x00\x00" + b"\0" * 60,
        b"\xff\xf1\x3c\x00\x01\x02",
        stl(normal=(3, 0, 0)),
        stl(attribute=9),
        b"\xfc\xfd" * 30,
    ],
)
def test_unknown_bytes_have_no_type(head):
    """Bytes of no known format give None, never a guess."""
    assert sniff(head) is None


def test_text_cut_inside_a_character_is_still_text():
    """A head that ends amid a UTF-8 character is text."""
    assert sniff("ü".encode() * 40 + b"\xc3") == "text/plain"


def test_a_bitmap_is_not_taken_from_a_text_that_begins_with_bm():
    """Two letters alone do not make an image."""
    assert sniff(b"BMW is a car maker in Munich, Bavaria") == "text/plain"


def test_more_than_the_head_changes_nothing():
    """Only the first `HEAD_BYTES` are looked at."""
    assert sniff(b"a" * HEAD_BYTES + b"\0\xff") == "text/plain"
