"""Is what came the file that was meant: its length, its hash, its inner structure."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from operator import index
from typing import TYPE_CHECKING, Any

from handler.errors import InputFailed
from handler.transfer.ranges import too_large
from handler.transfer.tokens import token_of

if TYPE_CHECKING:
    from pathlib import Path

    from handler.transfer.base import Remote
    from handler.transfer.part import Part
    from handler.transfer.records import Wanted

_BLOCK = 1 << 20
_LONGEST_HEADER = 100_000_000  # the format's own limit
_LONGEST_PAGE = 4 << 20
SAFETENSORS = (".safetensors", ".sft")
_MOST_AXES = 64
_MOST = 1 << 62
_ODD = (ValueError, KeyError, TypeError, AttributeError)
_BITS_BY_WIDTH = {
    64: ("F64", "I64", "U64", "C64"),
    32: ("F32", "I32", "U32"),
    16: ("F16", "BF16", "I16", "U16"),
    8: ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    4: ("F4",),
}
_BITS = {name: bits for bits, names in _BITS_BY_WIDTH.items() for name in names}
_TEXTS = frozenset(
    (".json", ".html", ".htm", ".xml", ".svg", ".txt", ".md", ".yaml", ".yml", ".toml", ".csv")
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


class Corrupt(InputFailed):
    """What came is not the file that was meant.

    Where some of it was from an earlier run, the downloader tries once from the first byte.
    """


class RunningHash:
    """The SHA-256 of a file that is still coming: what is there without a hole is read along."""

    def __init__(self) -> None:
        self.at = 0
        self._hash = hashlib.sha256()
        self._stopped = False

    def advance(self, part: Part, upto: int) -> None:
        """Take in the bytes before `upto`. Blocking: used in a thread."""
        self._stopped = False
        buffer = memoryview(bytearray(_BLOCK))
        while self.at < upto and not self._stopped:
            count = part.read(self.at, buffer[: min(_BLOCK, upto - self.at)])
            if not count:
                return
            self._hash.update(buffer[:count])
            self.at += count

    def stop(self) -> None:
        """Make `advance` end soon; from any thread."""
        self._stopped = True

    def hexdigest(self) -> str:
        """Give the hash of what was taken in."""
        return self._hash.hexdigest()


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file, hexadecimal. Blocking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_told(wanted: Wanted, remote: Remote, most: int | None, shown: str) -> None:
    """Hold what the source tells against what is wanted, before anything is fetched.

    Args:
        most: the largest size in bytes; None for any.

    Raises:
        Corrupt: it is a page in place of a model.
        InputFailed: it has another size than was told, or is too large.
    """
    size = remote.size
    page = wanted.kind == "model" and is_page_type(remote.content_type, wanted.target.name)
    if page and (size is None or size <= _LONGEST_PAGE):
        raise page_instead(remote.host, shown)
    if size is not None and wanted.size is not None and size != wanted.size:
        raise InputFailed(
            f"{shown} has {size} bytes, not the {wanted.size} that were told",
            details={"expected": wanted.size, "bytes": size},
        )
    if size is not None and most is not None and size > most:
        raise too_large(shown, most)


def check_file(path: Path, wanted: Wanted, remote: Remote, found: str | None, shown: str) -> None:
    """Hold what came against everything that is known of it. Blocking.

    Args:
        path: where it is for now.
        found: its SHA-256, where it was computed.

    Raises:
        Corrupt: it is a page, of another length or hash, or a safetensors file that is not whole.
    """
    name, size = wanted.target.name, path.stat().st_size
    if wanted.kind == "model":
        check_no_page(path, name, remote.host, shown)
    for told in (remote.size, wanted.size):
        if told is not None and told != size:
            raise Corrupt(f"{shown}: {size} bytes came of {told}")
    expected = wanted.sha256 or remote.sha256
    if expected and found:
        check_hash(expected, found, shown)
    elif wanted.kind == "model" and name.lower().endswith(SAFETENSORS):
        check_safetensors(path, shown)


def check_hash(expected: str, found: str, shown: str) -> None:
    """Compare two hashes.

    Raises:
        Corrupt: they differ.
    """
    if expected.strip().lower().removeprefix("sha256:") != found:
        raise Corrupt(
            f"{shown}: the SHA-256 of what came is {found}, not {expected}",
            details={"expected": expected, "found": found},
        )


def is_page_type(content_type: str, name: str) -> bool:
    """Tell whether a media type is that of a page, where a file by this name is none."""
    return not _is_text(name) and content_type in {
        *("text/html", "application/xhtml+xml", "application/json", "application/problem+json"),
        *("application/xml", "text/xml"),
    }


def check_no_page(path: Path, name: str, host: str, shown: str) -> None:
    """Make sure that a model is not a page that asks for a login. Blocking.

    Raises:
        Corrupt: it is HTML, XML or JSON; the hint names the provider and the token it wants.
    """
    if _is_text(name):
        return
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.lower().startswith(_PAGES):
            raise page_instead(host, shown)
        if head[:1] in {b"{", b"["} and path.stat().st_size <= _LONGEST_PAGE:
            file.seek(0)
            try:
                json.loads(file.read().decode())
            except RecursionError:
                pass  # brackets without end: whatever it is, it is no model
            except ValueError:
                return
            raise page_instead(host, shown)


def page_instead(host: str, shown: str) -> Corrupt:
    """Make the fault of a page that came in place of a model."""
    token = token_of(host)
    hint = f"send credentials for {host} with the request (`credentials` or `auth`)"
    if token:
        hint = f"{host} may want a login: set {token}, or send `credentials` or `auth`"
    return Corrupt(f"{shown}: {host} gave a web page or a message, not a model", hint=hint)


def check_safetensors(path: Path, shown: str) -> None:
    """Make sure that a safetensors file has all the bytes that its header promises. Blocking.

    Raises:
        Corrupt: the header is none, or the tensors do not fill the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise Corrupt(f"{shown}: no safetensors file, it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(_LONGEST_HEADER, size - 8):
            raise Corrupt(f"{shown}: no safetensors file, or one cut off within its header")
        try:
            header = json.loads(file.read(length))
            tensors = [_tensor(name, value) for name, value in header.items()]
        except (*_ODD, RecursionError) as fault:
            raise Corrupt(f"{shown}: the safetensors header cannot be read") from fault
    promised = 8 + length + _filled(sorted(one for one in tensors if one is not None), shown)
    if promised != size:
        raise Corrupt(
            f"{shown}: the safetensors header promises {promised} bytes, the file has {size}",
            details={"promised": promised, "bytes": size},
        )


def _tensor(name: str, value: Any) -> tuple[int, int] | None:
    """Give where a tensor begins and ends; None for what is no tensor."""
    if name == "__metadata__":
        return None
    begin, end, *shape = map(index, (*value["data_offsets"], *value["shape"]))
    bits = _BITS.get(value["dtype"])
    # What no tensor can have is not multiplied: the product would not end.
    if len(shape) > _MOST_AXES or not all(0 <= number <= _MOST for number in (begin, end, *shape)):
        raise ValueError(name)
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise ValueError(name)
    return begin, end


def _filled(tensors: list[tuple[int, int]], shown: str) -> int:
    """Give where the last tensor ends."""
    at = 0
    for begin, end in tensors:
        if begin != at or end < begin:
            raise Corrupt(f"{shown}: the tensors of the safetensors header overlap or leave holes")
        at = end
    return at


def _is_text(name: str) -> bool:
    return name[name.rfind(".") :].lower() in _TEXTS if "." in name else False
