"""Media that come inside the request: data URIs and bare base64.

A request may hold hundreds of megabytes of base64, so it is decoded slice by slice into a file;
beside the text itself never more than a slice is in memory.
"""

from __future__ import annotations

import binascii
import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from handler.errors import InputFailed
from handler.media.sniff import EXTENSIONS, HEAD_BYTES, refine, sniff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SLICE = 1 << 18
# No file system takes a longer path: what is longer was never meant as a name.
_LONGEST_PATH = 4096
_LONGEST_NAME = 255
# Many a short word decodes to printable text ("file" is "~)^"), and every path that begins with
# "/wo" to the two bytes of a JPEG XL.
_LIKE_NAMES = frozenset({None, "text/plain", "image/jxl"})
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n\f\v"
# These have signatures: where none is found, the declared type is wrong.
_SIGNED = ("image/", "video/", "audio/")


def looks_inline(value: str) -> bool:
    """Tell a data URI or base64 from the name of a file.

    Base64 may begin with a slash (every JPEG does: `/9j/`) and a name may be of letters only, so
    a short text counts as base64 only where it decodes to the beginning of a known type.
    """
    if value[:5].lower() == "data:" or len(value) > _LONGEST_PATH:
        return True
    if not _BASE64.fullmatch(value):
        return False
    if len(value) > _LONGEST_NAME:
        return True  # a name of that length without a dot is none
    try:
        mime = sniff(b"".join(_decoded(iter((value.encode(),)))))
    except InputFailed:
        return False
    return mime not in _LIKE_NAMES


def decode_inline(value: str, target: Path) -> Path:
    """Write what a data URI or base64 text holds to a file. Blocks: call in a thread if large.

    Args:
        value: `data:[type][;parameters][;base64],...`, or base64 in the standard or the URL-safe
            alphabet, blanks allowed, padding optional.
        target: the new file's path without extension; its folder must exist.

    Returns:
        The path with the extension of what the content is.

    Raises:
        InputFailed: not valid base64, empty, or of no known type. No file is left behind.
    """
    declared, is_base64, start = _header(value)
    slices = _slices(value, start)
    if declared is not None:
        slices = _percent_decoded(slices)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            for chunk in _decoded(slices) if is_base64 else slices:
                file.write(chunk)
        path = target.with_name(target.name + _extension(part, declared))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _header(value: str) -> tuple[str | None, bool, int]:
    """Read what stands before a data URI's comma: (declared type, base64?, where data starts)."""
    if value[:5].lower() != "data:":
        return None, True, 0
    comma = value.find(",", 0, 1024)
    if comma < 0:
        raise InputFailed("the data URI has no comma after its type")
    declared, *parameters = value[5:comma].split(";")
    coded = any(parameter.strip().lower() == "base64" for parameter in parameters)
    return declared.strip().lower() or "text/plain", coded, comma + 1


def _slices(value: str, start: int) -> Iterator[bytes]:
    for at in range(start, len(value), _SLICE):
        yield value[at : at + _SLICE].encode("utf-8", "surrogatepass")


def _percent_decoded(slices: Iterator[bytes]) -> Iterator[bytes]:
    """Undo percent-encoding without tearing an escape at the end of a slice."""
    rest = b""
    for piece in slices:
        text = rest + piece
        cut = text.rfind(b"%", max(0, len(text) - 2))
        rest = b"" if cut < 0 else text[cut:]
        yield unquote_to_bytes(text if cut < 0 else text[:cut])
    yield unquote_to_bytes(rest)


def _decoded(slices: Iterator[bytes]) -> Iterator[bytes]:
    """Decode base64 that comes in pieces, four characters at a time.

    Raises:
        InputFailed: a character is none of base64, or the length is impossible.
    """
    rest = b""
    ended = False
    for piece in slices:
        body, padding, after = piece.translate(_TO_STANDARD, _BLANKS).partition(b"=")
        if (ended and body) or after.strip(b"="):
            raise InputFailed("the value is not valid base64: data after its padding")
        ended = ended or bool(padding)
        text = rest + body
        whole = len(text) - len(text) % 4
        rest = text[whole:]
        yield _strictly(text[:whole])
    if len(rest) == 1:
        raise InputFailed("the value is not valid base64: its length is impossible")
    yield _strictly(rest + b"=" * (-len(rest) % 4))


def _strictly(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as fault:
        raise InputFailed("the value is not valid base64", details=str(fault)) from fault


def _extension(part: Path, declared: str | None) -> str:
    """Give the extension by content; the declared type is heard where content cannot tell.

    Raises:
        InputFailed: the file is empty, or of no known type.
    """
    with part.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InputFailed("the value holds no data")
    sniffed = sniff(head)
    known = EXTENSIONS.get(declared or "", "")
    if sniffed is not None:
        return EXTENSIONS[refine(sniffed, f"file{known}")]
    if not known or (declared or "").startswith(_SIGNED):
        raise InputFailed(
            "file type not recognised",
            hint="send base64 or a data URI of an image, video, audio or 3D file",
        )
    return known
