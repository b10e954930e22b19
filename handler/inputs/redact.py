"""URLs as they may be shown: without the secrets that are written into them. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_LONGEST = 300
_LONGEST_LINE = 8192
# Bounded, so that a long text costs no more than one look at each of its characters.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s\"'<>\\]+")
_TELLING = ("@", "?", "#")


def redacted(url: object) -> str:
    """Give a URL for a message or a log: no user, no password, no values of the query, no fragment.

    The names of the query stay: `?X-Amz-Signature=...` tells what kind of link it was.
    """
    try:
        parts = urlsplit(str(url))
        host = parts.netloc.rpartition("@")[2]
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        return "(a malformed URL)"
    query = "?" + "&".join(f"{name}=..." for name in names) if names else ""
    text = f"{parts.scheme}://{host}{parts.path}{query}" if host else f"{parts.scheme}:..."
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def urls_redacted(text: str) -> str:
    """Give a text whose URLs are as `redacted` has them; those with no secret stay as they are.

    A line that begins as a URL is one to its end: what fetches it takes blanks in it, too.
    """
    line = text.strip()
    if len(line) <= _LONGEST_LINE and "\n" not in line and _URL.match(line):
        return redacted(line) if _may_tell(line) else text
    return _URL.sub(lambda url: redacted(url[0]) if _may_tell(url[0]) else url[0], text)


def _may_tell(url: str) -> bool:
    return any(sign in url for sign in _TELLING)
