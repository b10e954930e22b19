"""Say what a file is by its first bytes. Pure.

Signatures are tried from the surest to the weakest; text comes last, since several formats
(SVG, OBJ, glTF, ASCII STL) are text with a habit.
"""

from __future__ import annotations

import math
import re
import struct

from handler.media.mimes import EXTENSIONS, kind_of, matches, mime_of, refine

__all__ = ["EXTENSIONS", "HEAD_BYTES", "kind_of", "matches", "mime_of", "refine", "sniff"]

HEAD_BYTES = 4096
"""How much of a file `sniff` makes use of."""

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"v/1\x01", "image/x-exr"),
    (b"#?RADIANCE", "image/vnd.radiance"),
    (b"8BPS\x00\x01", "image/vnd.adobe.photoshop"),
    (b"FLV\x01", "video/x-flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-wmv"),
    (b"\x00\x00\x01\xba", "video/mpeg"),
    (b"\x00\x00\x01\xb3", "video/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"glTF\x02\x00\x00\x00", "model/gltf-binary"),
    (b"ply\nformat ", "model/ply"),
    (b"ply\r\nformat ", "model/ply"),
    (b"Kaydara FBX Binary", "model/fbx"),
    (b"GGUF", "application/x-gguf"),
    (b"\x93NUMPY", "application/x-npy"),
    (b"PK\x05\x06", "application/zip"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"%PDF-", "application/pdf"),
    (b"{\\rtf", "application/rtf"),
)

_RIFF = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"}

_BRANDS: dict[bytes, str] = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"mif1": "image/heic",
    b"msf1": "image/heic",
    b"qt  ": "video/quicktime",
    b"M4V ": "video/x-m4v",
    b"M4VH": "video/x-m4v",
    b"M4VP": "video/x-m4v",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
}
_OLD_QUICKTIME = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

_SVG = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", re.DOTALL
)
_OBJ = re.compile(rb"^v\s+-?\d[\d.eE+-]*\s+-?\d[\d.eE+-]*\s+-?\d", re.MULTILINE)
_STL = re.compile(rb"\s*solid\b[^\n]*\n\s*(facet\s+normal|endsolid)\b")
_JSON = re.compile(rb'\s*(\{\s*("|\})|\[\s*(["\[{\]\d-]|true|false|null))')
_GLTF = re.compile(rb'"(asset|scenes|accessors|bufferViews)"\s*:')
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"


def sniff(head: bytes) -> str | None:
    """Give the media type of a file that starts with these bytes, None where none is known.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one; 64 do for most types.
    """
    head = head[:HEAD_BYTES]
    for prefix, mime in _PREFIXES:
        if head.startswith(prefix):
            return mime
    return _container(head) or _weak(head) or _text(head) or _binary_stl(head)


def _container(head: bytes) -> str | None:
    if head[:4] in {b"RIFF", b"RF64"}:
        return _RIFF.get(head[8:12])
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return "audio/aiff"
    if head[4:8] == b"ftyp":
        return _iso(head)
    if head[4:8] in _OLD_QUICKTIME:
        return "video/quicktime"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head.startswith(b"OggS"):
        return "video/ogg" if b"theora" in head[:64] else "audio/ogg"
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if head[257:262] == b"ustar":
        return "application/x-tar"
    return None


def _iso(head: bytes) -> str:
    brand = head[8:12]
    # HEIF's structural brands say nothing of the codec; an AVIF writer may put them first.
    if brand in {b"mif1", b"msf1"} and re.search(rb"avi[fs]", head[16:64]):
        return "image/avif"
    if brand.startswith(b"3g"):
        return "video/3gpp2" if brand.startswith(b"3g2") else "video/3gpp"
    return _BRANDS.get(brand, "video/mp4")


def _zip(head: bytes) -> str:
    name_length = int.from_bytes(head[26:28], "little")
    first = head[30 : 30 + name_length].lower()
    # USDZ demands that its first entry is the USD layer.
    usd = first.endswith((b".usd", b".usda", b".usdc"))
    return "model/vnd.usdz+zip" if usd else "application/zip"


def _weak(head: bytes) -> str | None:
    """Try the signatures of two or three bytes, each with a second look at what must follow."""
    if head[:2] == b"BM" and len(head) >= 26 and head[6:10] == b"\0\0\0\0":
        return "image/bmp"
    if head[:4] == b"\0\0\1\0" and head[4:6] != b"\0\0" and head[9:10] == b"\0":
        return "image/x-icon"
    if head[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return "application/x-bzip2"
    if len(head) > 188 and head[0] == head[188] == 0x47 and head[376:377] in {b"", b"\x47"}:
        return "video/mp2t"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 30:
        return "application/x-safetensors"
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _mpeg_audio(head)
    return None


def _mpeg_audio(head: bytes) -> str | None:
    """Tell MP3 and ADTS AAC by the reserved values that no frame header may have."""
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac" if (head[2] >> 2) & 0xF <= 12 else None
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    bitrate, rate = head[2] >> 4, (head[2] >> 2) & 3
    # Layer I (3) is left out: nobody has it, and UTF-16 text begins like it.
    valid = version != 1 and layer in {1, 2} and bitrate not in {0, 15} and rate != 3
    return "audio/mpeg" if valid else None


def _text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text/plain"
    body = head.removeprefix(b"\xef\xbb\xbf")
    if not body.strip() or body.translate(None, _CONTROLS) != body or not _is_utf8(body):
        return None
    if _SVG.match(body):
        return "image/svg+xml"
    if _STL.match(body):
        return "model/stl"
    if _JSON.match(body):
        return (
            "model/gltf+json" if body.lstrip()[:1] == b"{" and _gltf(body) else "application/json"
        )
    if len(_OBJ.findall(body)) >= 3:
        return "model/obj"
    return "text/plain"


def _gltf(body: bytes) -> bool:
    return b'"asset"' in body and len(set(_GLTF.findall(body))) > 1


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return fault.reason == "unexpected end of data"  # the head ends inside a character
    return True


def _binary_stl(head: bytes) -> str | None:
    """Tell a binary STL, which has no signature, by unit normals and zero attribute counts."""
    if len(head) < 134 or not (count := int.from_bytes(head[80:84], "little")):
        return None
    for index in range(min(count, (len(head) - 84) // 50, 8)):
        *floats, attribute = struct.unpack_from("<12fH", head, 84 + 50 * index)
        normal = math.hypot(*floats[:3])
        unit = normal == 0 or abs(normal - 1) < 0.01
        if attribute or not unit or not all(map(math.isfinite, floats)):
            return None
    return "model/stl"
