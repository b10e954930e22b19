"""Count the pictures of an animation and add up their times, from the headers alone.

Pillow knows the number of pictures, but gives their times only one by one as it decodes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """How long an image file plays.

    Attributes:
        frames: pictures in the file, 1 for a still.
        duration_s: seconds of one run through them; None for a still.
    """

    frames: int
    duration_s: float | None


STILL = Timing(1, None)


def timing(path: Path, mime: str) -> Timing:
    """Walk over the blocks of a GIF, WebP, PNG or AVIF; any other or broken file is a still.

    Raises:
        OSError: when the file cannot be read.
    """
    walk = _WALKS.get(mime)
    if walk is None:
        return STILL
    with path.open("rb") as file:
        try:
            return walk(file)
        except (struct.error, IndexError):
            return STILL


def _timing(delays_s: list[float]) -> Timing:
    return Timing(len(delays_s), sum(delays_s)) if len(delays_s) > 1 else STILL


def _png(file: BinaryIO) -> Timing:
    """Read the frame controls of an APNG: its `acTL` must stand before the pixels."""
    file.seek(8)
    delays: list[float] = []
    animated = False
    while len(header := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", header)
        if name in {b"acTL", b"fcTL"}:
            body = file.read(length)
            animated = animated or name == b"acTL"
            if name == b"fcTL":
                numerator, denominator = struct.unpack_from(">HH", body, 20)
                delays.append(numerator / (denominator or 100))
            file.seek(4, 1)
            continue
        if (name == b"IDAT" and not animated) or name == b"IEND":
            break
        file.seek(length + 4, 1)
    return _timing(delays if animated else [])


def _webp(file: BinaryIO) -> Timing:
    """Read the frame headers of an extended WebP."""
    head = file.read(30)
    if head[12:16] != b"VP8X" or not head[20] & 2:
        return STILL
    file.seek(20 + 10)
    delays: list[float] = []
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        padded = length + (length & 1)
        if name == b"ANMF":
            frame = file.read(16)
            delays.append(int.from_bytes(frame[12:15], "little") / 1000)
            padded -= len(frame)
        file.seek(padded, 1)
    return _timing(delays)


def _gif(file: BinaryIO) -> Timing:
    """Read the graphic controls; a picture without one has no delay of its own."""
    head = file.read(13)
    file.seek(_colours(head[10]), 1)
    delays: list[float] = []
    delay = 0.0
    while (mark := file.read(1)) in {b"!", b","}:
        if mark == b",":
            delays.append(delay)
            delay = 0.0
            file.seek(_colours(file.read(9)[8]) + 1, 1)
        elif file.read(1) == b"\xf9":
            delay = struct.unpack_from("<H", file.read(5), 2)[0] / 100
        while size := file.read(1)[0]:
            file.seek(size, 1)
    return _timing(delays)


def _colours(flags: int) -> int:
    """Give the bytes of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _avif(file: BinaryIO) -> Timing:
    """Read the movie header and the sample count of an AVIF sequence."""
    while len(header := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", header)
        if length < 8:
            return STILL
        if name == b"moov":
            return _movie(file.read(min(length - 8, 1 << 20)))
        file.seek(length - 8, 1)
    return STILL


def _movie(moov: bytes) -> Timing:
    samples, media = moov.find(b"stsz"), moov.find(b"mdhd")
    if samples < 0 or media < 0:
        return STILL
    (frames,) = struct.unpack_from(">I", moov, samples + 12)
    layout, at = (">IQ", 24) if moov[media + 4] == 1 else (">II", 16)
    scale, ticks = struct.unpack_from(layout, moov, media + at)
    return Timing(frames, ticks / scale) if frames > 1 and scale else STILL


_WALKS = {
    "image/png": _png,
    "image/apng": _png,
    "image/webp": _webp,
    "image/gif": _gif,
    "image/avif": _avif,
}
