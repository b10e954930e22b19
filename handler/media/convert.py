"""Convert one image file to another format, as a request's `convert_output` asks.

libvips does the work, as it does for sharp: every option of comfyui-api exists there. What it
cannot write (animated PNG and AVIF) and cannot read (BMP, ICO) goes through Pillow.
"""

from __future__ import annotations

import secrets
from functools import cache
from typing import TYPE_CHECKING, Any

from handler.errors import ConversionFailed
from handler.media import frames
from handler.media.describe import describe
from handler.media.options import (
    AvifOptions,
    ConvertOutput,
    JpegOptions,
    PngOptions,
    WebpOptions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from handler.records import MediaInfo

__all__ = ["ConvertOutput", "convert", "convertible"]

# Enough for AVIF, the slowest; more only multiply libvips' buffers (sharp's docs, "concurrency").
_THREADS = 4
_PAGED = frozenset({"image/gif", "image/webp"})


def convertible(info: MediaInfo) -> bool:
    """Tell whether a file is for `convert`: films, sound and text are handed on as they are."""
    return info.kind == "image"


def convert(source: Path, target: Path, request: ConvertOutput) -> None:
    """Write `source` in another format to `target`, whole or not at all. Blocks: call in a thread.

    Turned upright by its EXIF orientation, its colours brought to sRGB, its metadata left out; an
    animation keeps its pictures, their times and its number of runs. Where the format has no
    alpha the picture is laid on black, as sharp does.

    Raises:
        ConversionFailed: the file is no image that can be read, the format has no animation, or
            the encoder refuses.
    """
    info = describe(source, source.name)
    if not convertible(info):
        raise _failed(source, request, f"it is {info.mime}, not an image")
    animated = (info.frames or 1) > 1
    if animated and isinstance(request.options, JpegOptions):
        raise _failed(
            source, request, f"it has {info.frames} pictures and {request.format} has no animation"
        )
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        if animated:
            _write_animation(source, part, info, request)
        else:
            _write_still(source, part, info, request)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write_still(source: Path, part: Path, info: MediaInfo, request: ConvertOutput) -> None:
    vips = _vips()
    try:
        image = _upright(_load(source, info))
        _save(_as_srgb(image), part, request)
    except (vips.Error, OSError, ValueError) as fault:
        raise _failed(source, request, _reason(fault)) from fault


def _write_animation(source: Path, part: Path, info: MediaInfo, request: ConvertOutput) -> None:
    vips = _vips()
    options = request.options
    try:
        if isinstance(options, WebpOptions):
            if info.mime in _PAGED:
                image = vips.Image.new_from_file(str(source), n=-1, access="sequential")
            else:
                image = frames.to_vips(frames.read(source))
            _save(_as_srgb(image), part, request)
        elif isinstance(options, PngOptions):
            frames.write_apng(frames.read(source), part, options)
        elif isinstance(options, AvifOptions):
            frames.write_avif(frames.read(source), part, options)
    except frames.AnimationOptionError as fault:
        raise _failed(source, request, str(fault)) from fault
    except (vips.Error, OSError, ValueError) as fault:
        raise _failed(source, request, _reason(fault)) from fault


def _load(source: Path, info: MediaInfo) -> Any:
    """Open a still with libvips, or through Pillow where libvips has no reader for it."""
    if info.mime in {"image/bmp", "image/x-icon", "image/vnd.adobe.photoshop"}:
        return frames.to_vips(frames.read(source, first_only=True))
    return _vips().Image.new_from_file(str(source), access="sequential", fail_on="error")


def _upright(image: Any) -> Any:
    if image.get_typeof("orientation") == 0 or image.get("orientation") == 1:
        return image
    # Turning reads lines out of order, which a sequential image cannot give.
    return image.copy_memory().autorot()


def _as_srgb(image: Any) -> Any:
    """Bring colours to sRGB, by the embedded profile where there is one; grey stays grey."""
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform(
            "srgb", embedded=True, depth=16 if image.format == "ushort" else 8
        )
    elif image.interpretation not in {"srgb", "b-w", "rgb16", "grey16"}:
        image = image.colourspace("srgb")
    return image


def _save(image: Any, part: Path, request: ConvertOutput) -> None:
    match request.options:
        case JpegOptions() as jpeg:
            _eight_bits(image).jpegsave(str(part), keep="none", **_jpeg_arguments(jpeg))
        case WebpOptions() as webp:
            _eight_bits(image).webpsave(
                str(part),
                keep="none",
                Q=webp.quality,
                alpha_q=webp.alpha_quality,
                lossless=webp.lossless,
                near_lossless=webp.near_lossless,
                smart_subsample=webp.smart_subsample,
                preset=webp.preset,
                effort=webp.effort,
            )
        case AvifOptions() as avif:
            full = avif.lossless or avif.chroma_subsampling == "4:4:4"
            _eight_bits(image).heifsave(
                str(part),
                keep="none",
                compression="av1",
                bitdepth=8,
                Q=avif.quality,
                lossless=avif.lossless,
                effort=avif.effort,
                subsample_mode="off" if full else "on",
            )
        case PngOptions() as png:
            palette = {"palette": True, "Q": png.quality, "effort": png.effort}
            image.pngsave(
                str(part),
                keep="none",
                compression=png.compression_level,
                interlace=png.progressive,
                **(palette if png.palette else {}),
            )


def _jpeg_arguments(options: JpegOptions) -> dict[str, Any]:
    return {
        "Q": options.quality,
        # There are no scans to optimise in a baseline file; sharp takes it the same way.
        "interlace": options.progressive or options.optimize_scans,
        "subsample_mode": "off" if options.chroma_subsampling == "4:4:4" else "on",
        "optimize_coding": options.optimize_coding,
        "trellis_quant": options.trellis_quantisation,
        "overshoot_deringing": options.overshoot_deringing,
        "optimize_scans": options.optimize_scans,
        "quant_table": options.quantisation_table,
    }


def _eight_bits(image: Any) -> Any:
    if image.interpretation in {"rgb16", "grey16"}:
        return image.colourspace("srgb" if image.interpretation == "rgb16" else "b-w")
    return image


@cache
def _vips() -> Any:
    """Import libvips on first use, without its memory of past operations: no file comes twice."""
    import pyvips

    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    pyvips.concurrency_set(min(_THREADS, pyvips.concurrency_get()))
    return pyvips


def _reason(fault: Exception) -> str:
    """Take the last line of what a library says: libvips puts the call on top."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return lines[-1] if lines else type(fault).__name__


def _failed(source: Path, request: ConvertOutput, reason: str) -> ConversionFailed:
    return ConversionFailed(
        f"{source.name} cannot be converted to {request.format}: {reason}",
        details={"filename": source.name, "format": request.format, "reason": reason},
    )
