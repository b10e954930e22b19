"""Signatures by Standard Webhooks (https://www.standardwebhooks.com). Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from standardwebhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "whsec_"
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def signing_key(secret: str) -> bytes:
    """Decode a secret as leniently as comfyui-api: no padding needed, `-` and `_` taken.

    Returns:
        The key; empty where the text has none in it, and then nothing must be signed.
    """
    text = secret.strip().removeprefix(_PREFIX).replace("-", "+").replace("_", "/")
    text = _NO_BASE64.sub("", text)
    if len(text) % 4 == 1:  # six bits make no byte
        text = text[:-1]
    return base64.b64decode(text + "=" * (-len(text) % 4))


def header_id(message_id: str) -> str:
    """Write an id so that every receiver reads the same: headers beyond ASCII differ."""
    return message_id if _VISIBLE.fullmatch(message_id) else quote(message_id, safe="")


def signature(key: bytes, message_id: str, when: int, body: bytes) -> str:
    """Sign a body.

    Args:
        key: not empty: the library raises, since that would only look signed.
        message_id: as sent in `webhook-id`.
        when: epoch seconds, as sent in `webhook-timestamp`.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return streamed_signature(key, message_id, when, (body,))
    return Webhook(key).sign(message_id, datetime.fromtimestamp(when, UTC), text)


def streamed_signature(key: bytes, message_id: str, when: int, chunks: Iterable[bytes]) -> str:
    """Sign a body that comes in pieces; the library wants it as one text in memory."""
    assert key
    code = hmac.new(key, f"{message_id}.{when}.".encode(), hashlib.sha256)
    for chunk in chunks:
        code.update(chunk)
    return f"v1,{base64.b64encode(code.digest()).decode('ascii')}"
