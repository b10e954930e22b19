"""Which inputs take files, by what a node class declares of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from handler.graph.nearest import extension

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FileKind = Literal["image", "video", "audio", "file"]

_MEDIA_KINDS: tuple[FileKind, ...] = ("image", "video", "audio")

_IMAGE = "png jpg jpeg jpe jfif webp bmp gif apng tif tiff avif heic heif ico exr hdr svg"
_VIDEO = "mp4 m4v mov mkv webm avi flv wmv mpg mpeg 3gp ogv"
_AUDIO = "wav mp3 flac ogg oga opus m4a aac aif aiff wma"
_FILE = "latent glb gltf obj stl fbx ply usdz txt pdf srt vtt"
_KIND_OF_EXTENSION: dict[str, FileKind] = {
    **dict.fromkeys(_IMAGE.split(), "image"),
    **dict.fromkeys(_VIDEO.split(), "video"),
    **dict.fromkeys(_AUDIO.split(), "audio"),
    **dict.fromkeys(_FILE.split(), "file"),
}

_MODEL = "safetensors sft ckpt pt pt2 pth bin pkl gguf onnx engine yaml"
_MODEL_EXTENSIONS = frozenset(_MODEL.split())

# `x.png [temp]` names a file of another of the engine's folders.
_FOLDER_MARK = re.compile(r" ?\[(input|output|temp)\]$")
_LONGEST_NAME = 4096

_UPLOAD_FLAGS: dict[str, FileKind] = {
    "image_upload": "image",
    "animated_image_upload": "image",
    "video_upload": "video",
    "audio_upload": "audio",
    "file_upload": "file",
}

# Widgets that record in the browser; in the API graph they hold the name of an uploaded file.
_RECORDERS: dict[str, FileKind] = {"WEBCAM": "image", "AUDIO_RECORD": "audio"}


def kind_of_name(name: str) -> FileKind | None:
    """Tell the kind of a file name, URL or `data:` URI, None for models and the unknown."""
    if name.startswith("data:"):
        media = (kind for kind in _MEDIA_KINDS if name.startswith(f"data:{kind}/"))
        return next(media, "file")
    bare = name.split("?", 1)[0].split("#", 1)[0] if "://" in name[:16] else name
    return _KIND_OF_EXTENSION.get(extension(_FOLDER_MARK.sub("", bare[-_LONGEST_NAME:])))


def is_model_name(name: str) -> bool:
    """Tell whether a name ends like a model file."""
    return extension(name[-_LONGEST_NAME:]) in _MODEL_EXTENSIONS


def summed(kinds: Iterable[FileKind | None]) -> FileKind | None:
    """Sum kinds up to one; None if there are none or one of them is None."""
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    # Loaders of videos list GIF as well.
    return (
        "video" if found == {"image", "video"} else "file" if found and None not in found else None
    )


def declared_upload(name: str, type_: str, options: Mapping[str, Any]) -> FileKind | None:
    """Tell the kind of file an input is declared to take, None where no option says so."""
    for flag, kind in _UPLOAD_FLAGS.items():
        if options.get(flag):
            return kind
    if isinstance(options.get("image_folder"), str):
        return "image"
    if upload := options.get("upload"):
        # `true` leaves the kind to the name; the newer schema puts the flag's name here.
        words = f"{upload} {name}".lower()
        return next((kind for kind in _MEDIA_KINDS if kind in words), "file")
    return _RECORDERS.get(type_)


def kind_of_choices(choices: tuple[Any, ...]) -> FileKind | None:
    """Tell the kind of a list of file names, None unless every choice is a media file's name."""
    return summed(kind_of_name(name) if isinstance(name, str) else None for name in choices)


def kind_of_path(
    name: str, type_: str, options: Mapping[str, Any]
) -> tuple[FileKind | None, bool] | None:
    """Tell of a text input that is a path: its kind, None for no file, and if a directory's.

    VideoHelperSuite says so by a list of extensions, an empty one for directories. Others say
    nothing; of those only `image` is taken for a path, where its example is one.
    """
    if type_ != "STRING":
        return None
    extensions = options.get("vhs_path_extensions")
    if isinstance(extensions, list):
        texts = [ext for ext in extensions if isinstance(ext, str)]
        if not texts:
            # Its node SelectLatest finds files by a prefix, which is itself none.
            return (None, False) if "prefix" in name else ("image", True)
        return summed(_KIND_OF_EXTENSION.get(e.lower().lstrip(".")) for e in texts) or "file", False
    if name == "image":
        for example in (options.get("default"), options.get("placeholder")):
            if isinstance(example, str) and "://" not in example and kind_of_name(example):
                return "image", False
    return None
