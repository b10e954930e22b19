"""What URLs of Hugging Face's hub name: a file, or a page of the hub. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

VERBS = frozenset({"resolve", "blob", "raw"})
_KINDS = {"datasets": "dataset", "spaces": "space"}
_SPECIAL = re.compile(r"refs/(?:pr|convert)/[^/]+")
_LONGEST_REVISION = 4
"""Path segments that a revision may have."""
# What the hub keeps beside the repositories: no account can have such a name.
_OTHERS = frozenset(
    (
        *("api", "assets", "avatars", "blog", "collections", "docs", "front", "join", "learn"),
        *("login", "models", "oauth", "organizations", "papers", "pricing", "settings", "tasks"),
    )
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """What a URL of the hub names.

    Attributes:
        kind: `model`, `dataset` or `space`.
        choices: revision and path in the repository; more than one where the URL leaves open
            where the revision ends, the likeliest first.
    """

    repo: str
    kind: str
    choices: tuple[tuple[str, str], ...]


def parsed(url: str) -> HubFile | None:
    """Read a URL of a file on the hub; None for any other page of it."""
    kind, raw = _segments(urlsplit(url).path)
    # `owner/name/resolve/...` or, for the hub's oldest models, `name/resolve/...`.
    at = next((place for place in (2, 1) if len(raw) > place + 2 and raw[place] in VERBS), None)
    if at is None:
        return None
    repo, rest = "/".join(map(unquote, raw[:at])), raw[at + 1 :]
    named = _SPECIAL.match("/".join(map(unquote, rest)))
    first = unquote(rest[0])
    if "/" in first:
        lengths = [1]  # the slash was escaped: it is part of the revision
    elif named is not None:
        lengths = [named[0].count("/") + 1]
    else:
        lengths = list(range(1, min(_LONGEST_REVISION, len(rest) - 1) + 1))
    choices = tuple(
        ("/".join(map(unquote, rest[:length])), "/".join(map(unquote, rest[length:])))
        for length in lengths
        if length < len(rest)
    )
    return HubFile(repo, kind, choices) if choices else None


def names_a_file(path: str) -> bool:
    """Tell whether a path of the hub is that of a file's link, well formed or not."""
    return any(f"/{verb}/" in path for verb in VERBS)


def is_repository_page(path: str) -> bool:
    """Tell whether a path of the hub is that of a repository, a folder of it or a tab."""
    kind, raw = _segments(path)
    if not raw or raw[0] in _OTHERS or names_a_file(path):
        return False
    if len(raw) == 1:
        # An account, or one of the oldest models; the hub's own files have an ending.
        return kind != "model" or "." not in raw[0]
    return len(raw) == 2 or bool({"tree", "commits", "commit", "discussions", *VERBS} & {raw[2]})


def _segments(path: str) -> tuple[str, list[str]]:
    """Give the kind of a repository, and the parts of the path from its name on."""
    raw = [part for part in path.split("/") if part]
    kind = _KINDS.get(raw[0], "model") if raw else "model"
    return kind, raw if kind == "model" else raw[1:]
