"""Take secrets out of texts that others wrote: a server may repeat what it was sent. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from handler.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Shorter ones would take ordinary words out of a message.
_SHORTEST = 4
_SHORTEST_PIECE = 8
_LONGEST_TEXT = 300
# Of a connection string, what says where.
_PLACES = re.compile(r"(?i)(?:AccountName|EndpointSuffix|DefaultEndpointsProtocol|\w+Endpoint)=")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")


def secrets_of(*values: object) -> tuple[str, ...]:
    """Give the secrets in models and texts in the clear, in every form they are sent in.

    Args:
        values: models with secrets among their fields, or texts that are secret.
    """
    found = {form for value in values for form in _forms(value)}
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True))


def struck(text: str, secrets: Iterable[str]) -> str:
    """Give a text as it may be told: on one line, not too long, and without the secrets."""
    text = _BLANKS.sub(" ", text[: 10 * _LONGEST_TEXT]).strip()
    for secret in secrets:
        text = text.replace(secret, "…")
    text = masked(text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _forms(value: object) -> Iterator[str]:
    match value:
        case SecretStr():
            yield from _text_forms(value.get_secret_value())
        case str():
            yield from _text_forms(value)
        case list() | tuple():
            for one in value:
                yield from _in_field(one)
        case dict():
            for one in value.values():
                yield from _in_field(one)
        case BaseModel():
            for name in type(value).model_fields:
                yield from _in_field(getattr(value, name))
            yield from _sent(value)


def _in_field(value: Any) -> Iterator[str]:
    """Of a model's fields, texts are secret only where they are kept as such."""
    return iter(()) if isinstance(value, str) else _forms(value)


def _sent(model: Any) -> Iterator[str]:
    """Give what an auth sends: the basic one's is in no field."""
    headers = getattr(model, "headers", None)
    for header in headers().values() if callable(headers) else ():
        yield from (header, header.rpartition(" ")[2])


def _text_forms(text: str) -> Iterator[str]:
    """A URL is no secret as a whole, what it holds is; tokens and connection strings have parts."""
    split = [piece for piece in re.split(r"[?&;#]", text) if not _PLACES.match(piece)]
    pieces = [piece.partition("=")[2] for piece in split]
    if "://" in text and not re.match(r"\w+=", text):
        parts = urlsplit(text)
        pieces.append(parts.netloc.rpartition("@")[0].partition(":")[2])
    else:
        yield from (text, quote(text, safe=""))
    for piece in pieces:
        if len(piece) >= _SHORTEST_PIECE:
            yield from (piece, unquote(piece), quote(unquote(piece), safe=""))
