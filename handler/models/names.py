"""Names of model files: which ones callers may choose, and which ones we give. Pure.

A name that we publish ends in some digits of the content's key: other bytes have another name, so
a name that the engine has loaded once never means anything else.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from handler.errors import InvalidPayload
from handler.graph.file_kinds import is_model_name
from handler.graph.model_inputs import is_probe
from handler.transfer.verify import SAFETENSORS

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_BYTES = 16
"""How much of a file tells whether it is safetensors or GGUF."""

_LONGEST = 255
_LONGEST_STEM = 120
_LONGEST_HEADER = 100_000_000
_FORBIDDEN = frozenset('/\\:<>"|?*')
# Surrogates, and what breaks a line, besides the control characters proper.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9]) *(\..*)?")
_SECRET_NAME = re.compile(r"(?i)sig|token|secret|key|auth|pass|pwd|jwt|hmac|cred|policy|session")
_LONG_VALUE = 32


def check_filename(text: str) -> str:
    """Give back a file name that a caller chose, if it is one on every file system.

    Raises:
        InvalidPayload: it is no leaf, too long, or has what some system does not take; also when
            it only becomes so by Unicode's compatibility forms, as a full-width slash does.
    """
    for form in (text, unicodedata.normalize("NFKC", text)):
        if fault := _fault(form):
            raise InvalidPayload(
                f"no usable file name: {fault}",
                hint="give a name without a folder, as model.safetensors",
            )
    return text


def published_name(leaf: str, key: str) -> str:
    """Give the name that some content has in a model folder: `<stem>-<10 hex digits><suffix>`."""
    kind, _, rest = key.partition("-")
    digits = rest[:10] if kind == "sha256" else hashlib.sha256(key.encode()).hexdigest()[:10]
    suffix = suffix_of(leaf)
    stem = _shortened(leaf.removesuffix(suffix), _LONGEST - len(suffix.encode()) - 11)
    return f"{stem}-{digits}{suffix}"


def leaf_for(url: str, hint: str, head: bytes, size: int, suffix: str = "") -> str:
    """Give a readable file name, with a suffix that the engine lists.

    Args:
        hint: the name that the source gives it; "" for none.
        head: the first bytes of the content, `HEAD_BYTES` of them where it has as many.
        size: of the content in bytes.
        suffix: for content that neither its bytes, nor the source, nor the URL tell of.
    """
    names = [name for name in (hint, _url_leaf(url)) if name]
    ending = _by_bytes(names, head, size)
    ending = ending or next((suffix_of(name) for name in names if suffix_of(name)), "")
    if not ending:
        ending = suffix if is_model_name(f"x{suffix}") else ".bin"
    stem = next((stem for name in names if (stem := _cleaned(name))), "model")
    return f"{stem}{ending}"


def is_safetensors(head: bytes, size: int) -> bool:
    """Tell by the first bytes whether a file is meant to be safetensors."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and 2 <= length <= min(size, _LONGEST_HEADER)


def suffix_of(name: str) -> str:
    """Give the suffix of a model file's name, lower case; "" for what is none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 and is_model_name(name) else ""


def url_suffix(url: str) -> str:
    """Give the suffix of the model file that a URL's path names; "" for none."""
    return suffix_of(_url_leaf(url))


def bare_url(url: str) -> str:
    """Give a URL without user and password, else as it is written."""
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        return url
    return url.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else url


def url_id(url: str) -> str:
    """Give 32 characters that stand for a URL: those that comfyui-api names its files by."""
    return _digest(bare_url(url))


def place_id(url: str) -> str:
    """Give 32 characters that stand for the place: the URL without its query and fragment."""
    return _digest(re.split("[?#]", bare_url(url), maxsplit=1)[0])


def has_userinfo(url: str) -> bool:
    """Tell whether a URL has user or password in it."""
    return bare_url(url) != url


def is_signed(url: str) -> bool:
    """Tell whether a URL's query looks as if who has it has a right: a signature or a token."""
    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return True
    return any(_SECRET_NAME.search(name) or len(value) >= _LONG_VALUE for name, value in query)


def _fault(text: str) -> str | None:
    if not text:
        return "it is empty"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        return "it has control characters"
    if len(text.encode()) > _LONGEST:
        return f"it has more than {_LONGEST} bytes"
    if found := sorted(_FORBIDDEN.intersection(text)):
        return f"it has {' '.join(found)} in it"
    if text.startswith("."):
        return "it begins with a dot"
    if text[-1] in ". ":
        return "it ends with a dot or a space"
    if _DEVICES.fullmatch(text):
        return "it is the name of a device on some systems"
    if is_probe(text):
        return "names that begin so are no models"  # no list would show it
    return None


def _by_bytes(names: Iterable[str], head: bytes, size: int) -> str:
    """Give the suffix that the engine needs for these bytes; "" where they do not tell."""
    if is_safetensors(head, size):
        # A torch loader is what the engine takes for any other suffix.
        told = (suffix_of(name) for name in names)
        return next((one for one in told if one in SAFETENSORS), ".safetensors")
    return ".gguf" if head.startswith(b"GGUF") else ""


def _cleaned(name: str) -> str:
    """Give what a name reads like before its suffix, as every file system takes it; maybe ""."""
    text = unicodedata.normalize("NFKC", name)
    text = "".join(
        "_" if one in _FORBIDDEN or unicodedata.category(one) in _UNPRINTABLE else one
        for one in text
    )
    text = _shortened(text.removesuffix(text[text.rfind(".") :] if suffix_of(text) else ""))
    text = text.strip(". ")
    return f"_{text}" if _DEVICES.fullmatch(text) or is_probe(text) else text


def _shortened(text: str, most: int = _LONGEST_STEM) -> str:
    return text.encode()[:most].decode(errors="ignore")


def _url_leaf(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return unquote(path.rstrip("/").rpartition("/")[2]).replace("\\", "/").rpartition("/")[2]


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest)[:32].decode()
