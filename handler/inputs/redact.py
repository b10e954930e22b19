"""URLs as they may be shown: without the secrets that are written into them. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

_LONGEST = 300


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
