"""What an answer repeats of its request: never a secret, and no media that came inside of it.

comfyui-api repeats every field that it took (section 2.4 of its contract), credentials included.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from handler.inputs.redact import redacted, urls_redacted

if TYPE_CHECKING:
    from handler.payload import PromptRequest
    from handler.records import Graph

LONGEST_TEXT = 4096
"""Characters of base64 that are repeated; what is longer is a file."""

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+=-]+)*,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_LOOKED_AT = 4096
_NESTED = (dict, list)


def echo(request: PromptRequest, job_id: str, graph: Graph) -> dict[str, Any]:
    """Give the fields of a request for its answer, defaults filled in.

    Args:
        graph: as it ran, or as it came: data URIs and base64 in it are replaced by a short text
            that tells their length, and URLs are without user, password and values of the query.
    """
    told: dict[str, Any] = {"id": job_id, "prompt": _tellable(graph)}
    if request.convert_output is not None:
        told["convert_output"] = request.convert_output.public()
    for name in ("webhook", "webhook_v2"):
        url = getattr(request, name)
        if url is not None:
            told[name] = redacted(url.get_secret_value())
    if request.archive is not None:
        told["archive"] = request.archive
    return told | {target.kind: target.public() for target in request.targets}


def _tellable(value: Any) -> Any:
    """Replace media and secrets of URLs, at any depth; only what changes is copied."""
    copy: Any = None
    for key, old in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(old, str):
            # Two looks at what nearly all texts are: this is done for every job. Neither a data URI
            # nor a URL is without a colon, and one letter is found much faster than three.
            if len(old) <= LONGEST_TEXT and ":" not in old:
                continue
            new: Any = _shown(old)
        elif isinstance(old, _NESTED):
            new = _tellable(old)
        else:
            continue
        if new is not old:
            copy = value.copy() if copy is None else copy
            copy[key] = new
    return value if copy is None else copy


def _shown(text: str) -> str:
    head = _DATA_URI.match(text)
    if head is not None:
        return f"{head[0]}... ({len(text)} characters)"
    # A look at the beginning tells prose, which has stops and quotes, from base64.
    if len(text) > LONGEST_TEXT and _BASE64.fullmatch(text[:_LOOKED_AT]):
        return f"{text[:16]}... ({len(text)} characters of base64)"
    return urls_redacted(text) if "://" in text else text
