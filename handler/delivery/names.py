"""Names of what is stored: keys, URLs, content types, dispositions. Pure."""

from __future__ import annotations

import mimetypes
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from handler.media.mimes import OCTETS, mime_of

if TYPE_CHECKING:
    from handler.records import Output
    from handler.targets import Target

# By comfyui-api's table, where no other has them.
_OFFICE = "application/vnd.openxmlformats-officedocument."
_TYPES = {
    ".doc": "application/msword",
    ".xls": "application/vnd.ms-excel",
    ".ppt": "application/vnd.ms-powerpoint",
    ".docx": f"{_OFFICE}wordprocessingml.document",
    ".xlsx": f"{_OFFICE}spreadsheetml.sheet",
    ".pptx": f"{_OFFICE}presentationml.presentation",
    ".bin": OCTETS,
    ".pt": OCTETS,
    ".pb": OCTETS,
}
# Python's own table, without the system's: that differs between images.
_PYTHONS = mimetypes.MimeTypes()
_PATH_SAFE = "/!$&'()*+,;=:@~"
_UNSAFE_VALUE = re.compile(r"[\x00-\x1f\x7f/\\]")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]|[\"\\%]")


def content_type(filename: str, known: str = "") -> str:
    """Give the media type to store a file under.

    Args:
        known: by the file's content; speaks where the name says nothing.
    """
    _, dot, extension = filename.rpartition(".")
    ending = f".{extension.lower()}" if dot else ""
    named = mime_of(filename)
    if named != OCTETS:
        return named
    if ending in _TYPES:
        return _TYPES[ending]
    return _PYTHONS.types_map[True].get(ending) or known or OCTETS


def disposition(kind: str, filename: str) -> str:
    """Give a Content-Disposition with the name in both of its forms (RFC 6266, RFC 8187)."""
    plain = _NOT_PLAIN.sub("_", filename)
    header = f'{kind}; filename="{plain}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"


def key_of(target: Target, output: Output, job_id: str) -> str:
    """Give where an output goes: prefix and file name as they are, or by the target's template.

    What is filled in besides the prefix is one part of a path each, whatever is written in it.
    """
    if target.key_template is None:
        return f"{target.prefix_text}{output.filename}"
    stem, dot, extension = output.filename.rpartition(".")
    values = {
        "id": job_id,
        "node": output.node_id,
        "filename": output.filename,
        "stem": stem if dot else output.filename,
        "ext": extension if dot else "",
        "sha256": output.sha256,
    }
    parts = {name: _one_part(value) for name, value in values.items()}
    return target.key_template.format(prefix=target.prefix_text, **parts)


def numbered(key: str, count: int) -> str:
    """Give another key near to one that is taken: `a/b.png` -> `a/b-2.png`."""
    folder, slash, name = key.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem:
        return f"{folder}{slash}{name}-{count}"
    return f"{folder}{slash}{stem}-{count}.{extension}"


def escaped(path: str) -> str:
    """Percent-encode a path for a request; slashes stay."""
    return quote(path, safe=_PATH_SAFE)


def plain(path: str) -> str:
    """Give a path as comfyui-api writes it behind a URL: as it is.

    Only what would make another URL of it is escaped.
    """
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def segments(path: str) -> str:
    """Percent-encode each part of a path, as Hugging Face's links have it."""
    return "/".join(quote(part, safe="") for part in path.split("/"))


def _one_part(value: str) -> str:
    value = _UNSAFE_VALUE.sub("_", value)
    return "_" * len(value) if value in {".", ".."} else value
