"""Media types by name: which extension is whose, and what a type is good for. Pure tables.

The system's own table (`/etc/mime.types`) is left alone: it differs between images, and an
answer must not depend on the image it was made in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from handler.records import Kind

Wanted = Literal["image", "video", "audio", "file"]

OCTETS = "application/octet-stream"

EXTENSIONS: dict[str, str] = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/apng": ".apng",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/x-icon": ".ico",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/jxl": ".jxl",
    "image/svg+xml": ".svg",
    "image/x-exr": ".exr",
    "image/vnd.radiance": ".hdr",
    "image/vnd.adobe.photoshop": ".psd",
    "video/mp4": ".mp4",
    "video/x-m4v": ".m4v",
    "video/quicktime": ".mov",
    "video/3gpp": ".3gp",
    "video/3gpp2": ".3g2",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "video/x-flv": ".flv",
    "video/x-ms-wmv": ".wmv",
    "video/mpeg": ".mpg",
    "video/mp2t": ".ts",
    "video/ogg": ".ogv",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
    "audio/aac": ".aac",
    "audio/aiff": ".aiff",
    "audio/webm": ".weba",
    "model/gltf-binary": ".glb",
    "model/gltf+json": ".gltf",
    "model/obj": ".obj",
    "model/ply": ".ply",
    "model/stl": ".stl",
    "model/fbx": ".fbx",
    "model/vnd.usdz+zip": ".usdz",
    "model/3mf": ".3mf",
    "application/x-safetensors": ".safetensors",
    "application/x-gguf": ".gguf",
    "application/x-npy": ".npy",
    "application/x-npz": ".npz",
    "application/zip": ".zip",
    "application/vnd.rar": ".rar",
    "application/x-7z-compressed": ".7z",
    "application/gzip": ".gz",
    "application/x-bzip2": ".bz2",
    "application/x-tar": ".tar",
    "application/pdf": ".pdf",
    "application/json": ".json",
    "application/yaml": ".yaml",
    "application/xml": ".xml",
    "text/plain": ".txt",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/css": ".css",
    "text/javascript": ".js",
    "text/markdown": ".md",
    "text/vtt": ".vtt",
    "application/x-subrip": ".srt",
    "application/rtf": ".rtf",
}
"""Media type -> the extension a new file of it gets."""

_TYPES: dict[str, str] = {extension: mime for mime, extension in EXTENSIONS.items()} | {
    ".jpeg": "image/jpeg",
    ".jpe": "image/jpeg",
    ".jfif": "image/jpeg",
    ".tif": "image/tiff",
    ".heif": "image/heic",
    ".mpeg": "video/mpeg",
    ".m2v": "video/mpeg",
    ".qt": "video/quicktime",
    ".asf": "video/x-ms-wmv",
    ".oga": "audio/ogg",
    ".wave": "audio/wav",
    ".aif": "audio/aiff",
    ".latent": "application/x-safetensors",
    ".htm": "text/html",
    ".yml": "application/yaml",
    ".log": "text/plain",
    ".text": "text/plain",
    ".tgz": "application/gzip",
    ".splat": "model/x-splat",
    ".ksplat": "model/x-splat",
    ".spz": "model/x-splat",
}

_TEXTS = frozenset(
    {"application/json", "application/yaml", "application/xml", "application/x-subrip"}
)

_REFINABLE: dict[str, tuple[str, ...]] = {
    "text/plain": ("text/", "model/", *_TEXTS, "application/rtf"),
    "application/json": ("model/gltf+json",),
    "application/zip": ("model/3mf", "model/vnd.usdz+zip", "application/x-npz"),
    "audio/ogg": ("audio/opus", "video/ogg"),
    "video/webm": ("audio/webm",),
}


def mime_of(filename: str) -> str:
    """Give the media type that a name's extension stands for, `OCTETS` for an unknown one."""
    _, dot, extension = filename.rpartition(".")
    return _TYPES.get(f".{extension.lower()}", OCTETS) if dot else OCTETS


def refine(sniffed: str, filename: str) -> str:
    """Let the name speak where the content only tells the family: a `.csv` is plain text too."""
    named = mime_of(filename)
    return named if named.startswith(_REFINABLE.get(sniffed, ("\0",))) else sniffed


def kind_of(mime: str, filename: str) -> Kind:
    """Give the kind of a media type; the name decides where the type says nothing."""
    if mime == OCTETS:
        mime = mime_of(filename)
    match mime.partition("/")[0]:
        case "image":
            return "image"
        case "video":
            return "video"
        case "audio":
            return "audio"
        case "model":
            return "model3d"
        case "text":
            return "text"
    return "text" if mime in _TEXTS else "file"


def matches(wanted: Wanted, mime: str | None) -> bool:
    """Tell whether a node that loads `wanted` can load a file of this type.

    A GIF is an image and a short film; a film brings its sound track, so ComfyUI's audio loader
    offers videos as well. A file of no known type (None) is good for no medium.
    """
    if wanted == "file" or mime is None:
        return wanted == "file"
    family = mime.partition("/")[0]
    if wanted == "video":
        return family == "video" or mime == "image/gif"
    if wanted == "audio":
        return family in {"audio", "video"}
    return family == "image"
