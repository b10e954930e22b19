"""What an answer repeats of its request: never a secret, and no media that came inside of it.

comfyui-api repeats every field that it took (section 2.4 of its contract), credentials included.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from handler.inputs.redact import redacted

if TYPE_CHECKING:
    from handler.payload import PromptRequest
    from handler.records import Graph

LONGEST_TEXT = 4096
"""Characters of base64 that are repeated; what is longer is a file."""

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+=-]+)*,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_LOOKED_AT = 4096


def echo(request: PromptRequest, job_id: str, graph: Graph) -> dict[str, Any]:
    """Give the fields of a request for its answer, defaults filled in.

    Args:
        graph: as it ran, or as it came: data URIs and base64 in it are replaced by a short text
            that tells their length.
    """
    told: dict[str, Any] = {"id": job_id, "prompt": _without_media(graph)}
    if request.convert_output is not None:
        told["convert_output"] = request.convert_output.public()
    for name in ("webhook", "webhook_v2"):
        url = getattr(request, name)
        if url is not None:
            told[name] = redacted(url.get_secret_value())
    if request.archive is not None:
        told["archive"] = request.archive
    return told | {target.kind: target.public() for target in request.targets}


def _without_media(value: Any) -> Any:
    """Replace media at any depth; only what changes is copied."""
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, dict):
        changed = {
            key: new for key, old in value.items() if (new := _without_media(old)) is not old
        }
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        shown = [_without_media(one) for one in value]
        return shown if any(a is not b for a, b in zip(shown, value, strict=True)) else value
    return value


def _shown(text: str) -> str:
    head = _DATA_URI.match(text)
    if head is not None:
        return f"{head[0]}... ({len(text)} characters)"
    # A look at the beginning tells prose, which has stops and quotes, from base64.
    if len(text) > LONGEST_TEXT and _BASE64.fullmatch(text[:_LOOKED_AT]):
        return f"{text[:16]}... ({len(text)} characters of base64)"
    return text
