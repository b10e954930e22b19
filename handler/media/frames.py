"""The pictures of an animation, decoded by Pillow, and the writers that only Pillow has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from handler.media.options import AvifOptions, PngOptions


class AnimationOptionError(ValueError):
    """An option that the writer of animations does not have."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Decoded pictures of one size and mode, RGB or RGBA, 8 bits.

    Attributes:
        delays_ms: how long each is shown.
        plays: number of runs, 0 for ever.
    """

    images: list[Image]
    delays_ms: list[int]
    plays: int


def read(source: Path, *, first_only: bool = False) -> Frames:
    """Decode every picture of a file, or its first.

    Raises:
        OSError: Pillow cannot read the file.
    """
    from PIL import Image, ImageOps, ImageSequence

    images: list[Image.Image] = []
    delays: list[int] = []
    try:
        with Image.open(source) as file:
            loop, format_name = file.info.get("loop"), file.format
            for frame in ImageSequence.Iterator(file):
                images.append(_plain(ImageOps.exif_transpose(frame)))
                delays.append(round(frame.info.get("duration", 0)))
                if first_only:
                    break
    except Exception as fault:
        # A broken file raises anything: SyntaxError, struct.error, DecompressionBombError.
        raise OSError(str(fault)) from fault
    if any(image.mode == "RGBA" for image in images):
        images = [image.convert("RGBA") for image in images]
    return Frames(images, delays, _plays(loop, format_name))


def _plain(image: Image) -> Image:
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _plays(loop: int | None, format_name: str | None) -> int:
    """Count runs as WebP and APNG do: a GIF counts repeats, and without a count it runs once."""
    if format_name != "GIF":
        return loop or 0
    return 1 if loop is None else (loop + 1 if loop else 0)


def to_vips(pictures: Frames) -> Any:
    """Stack the pictures into one libvips image, the form its WebP writer takes."""
    import pyvips

    first = pictures.images[0]
    width, height = first.size
    pixels = b"".join(image.tobytes() for image in pictures.images)
    stack = pyvips.Image.new_from_memory(
        pixels, width, height * len(pictures.images), len(first.mode), "uchar"
    ).copy(interpretation="srgb")
    if len(pictures.images) == 1:
        return stack
    stack.set_type(pyvips.GValue.gint_type, "page-height", height)
    stack.set_type(pyvips.GValue.gint_type, "loop", pictures.plays)
    stack.set_type(pyvips.GValue.array_int_type, "delay", pictures.delays_ms)
    return stack


def write_apng(pictures: Frames, target: Path, options: PngOptions) -> None:
    """Write an animated PNG.

    Raises:
        AnimationOptionError: a palette or interlacing is asked for.
        OSError, ValueError: Pillow cannot write it.
    """
    if options.palette or options.progressive:
        raise AnimationOptionError("an animated PNG is written without palette and interlacing")
    _save(pictures, target, "PNG", loop=pictures.plays, compress_level=options.compression_level)


def write_avif(pictures: Frames, target: Path, options: AvifOptions) -> None:
    """Write an AVIF sequence, which has no number of runs: it runs for ever.

    Raises:
        AnimationOptionError: lossless is asked for.
        OSError, ValueError: Pillow cannot write it.
    """
    if options.lossless:
        raise AnimationOptionError("an animated AVIF cannot be lossless")
    # libheif maps effort to the encoder's speed the same way.
    speed = 9 - options.effort
    _save(
        pictures,
        target,
        "AVIF",
        quality=options.quality,
        subsampling=options.chroma_subsampling,
        speed=speed,
    )


def _save(pictures: Frames, target: Path, format_name: str, **options: Any) -> None:
    first, *others = pictures.images
    first.save(
        target,
        format_name,
        save_all=True,
        append_images=others,
        duration=pictures.delays_ms,
        **options,
    )
