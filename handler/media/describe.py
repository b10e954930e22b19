"""Say what a media file is: its type, size in pixels, length in seconds. Headers only.

Pillow reads the headers of images and MediaInfo those of films and sound; each is imported when
the first such file comes. Called inline for small files, so a PNG must cost less than a hop to a
thread.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from handler.media.animation import timing
from handler.media.sniff import HEAD_BYTES, kind_of, mime_of, refine, sniff
from handler.records import MediaInfo

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("comfyfn.media")

# Opened by class, not by Image.open: that one tries every plugin in turn, and refuses pictures
# of over 179 million pixels, which an upscaler does make.
_READERS: dict[str, tuple[str, str]] = {
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/bmp": ("BmpImagePlugin", "BmpImageFile"),
    "image/tiff": ("TiffImagePlugin", "TiffImageFile"),
    "image/x-icon": ("IcoImagePlugin", "IcoImageFile"),
    "image/avif": ("AvifImagePlugin", "AvifImageFile"),
    "image/vnd.adobe.photoshop": ("PsdImagePlugin", "PsdImageFile"),
}
_BY_MEDIAINFO = frozenset({"image/heic", "image/jxl", "image/x-exr"})


def describe(path: Path, filename: str) -> MediaInfo:
    """Describe a file by its content; by the name's extension where the content says nothing.

    A file whose header is broken keeps its type and has None for what could not be read.

    Args:
        path: where the bytes lie.
        filename: the name as told to people, which may differ from the path's.

    Raises:
        OSError: when the file cannot be read at all.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    sniffed = sniff(head)
    mime = refine(sniffed, filename) if sniffed else mime_of(filename)
    info = MediaInfo(mime, kind_of(mime, filename))
    if sniffed is None:
        return info
    if mime in _READERS:
        return _image(path, info)
    if info.kind in {"video", "audio"} or mime in _BY_MEDIAINFO:
        return _by_mediainfo(path, info)
    return info


def _image(path: Path, info: MediaInfo) -> MediaInfo:
    module, name = _READERS[info.mime]
    reader = getattr(import_module(f"PIL.{module}"), name)
    try:
        with reader(path) as image:
            width, height = image.size
    except Exception as fault:  # noqa: BLE001 - a broken file raises anything, struct.error included
        log.debug("unreadable %s header in %s: %s", info.mime, path.name, fault)
        return info
    timed = timing(path, info.mime)
    return replace(
        info, width=width, height=height, frames=timed.frames, duration_s=timed.duration_s
    )


def _by_mediainfo(path: Path, info: MediaInfo) -> MediaInfo:
    from pymediainfo import MediaInfo as Parser

    try:
        parsed = Parser.parse(path)
    except (OSError, RuntimeError, ValueError, SyntaxError) as fault:
        log.debug("MediaInfo failed on %s: %s", path.name, fault)
        return info
    tracks = {track.track_type: track for track in reversed(parsed.tracks)}
    picture = tracks.get("Video") or tracks.get("Image")
    return replace(
        _sound_only(info, has_video="Video" in tracks, has_audio="Audio" in tracks),
        width=_number(picture, "width"),
        height=_number(picture, "height"),
        frames=1 if info.kind == "image" else None,
        duration_s=_seconds(tracks.get("General")) if info.kind != "image" else None,
    )


def _sound_only(info: MediaInfo, *, has_video: bool, has_audio: bool) -> MediaInfo:
    """Call an MP4, WebM or Matroska that holds sound alone audio: its signature cannot tell."""
    mime = {"video/mp4": "audio/mp4", "video/webm": "audio/webm"}.get(info.mime)
    if mime is None or has_video or not has_audio:
        return info
    return replace(info, mime=mime, kind="audio")


def _number(track: Any, name: str) -> int | None:
    value = getattr(track, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _seconds(track: Any) -> float | None:
    try:
        return float(track.duration) / 1000
    except (AttributeError, TypeError, ValueError):
        return None
