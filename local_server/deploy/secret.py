"""Values that are sent and never shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.settings import names_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
_TELLING = re.compile(
    r"(?i)(^|_)(token|secret|password|passwd|credentials?|(api|access|private)?_?key)($|_)"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that every representation masks; only `revealed` gives it."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return MASK


def revealed(body: Any) -> Any:
    """Give a body as it is sent."""
    return _mapped(body, lambda secret: secret.value)


def shown(body: Any) -> Any:
    """Give a body as it may be printed."""
    return _mapped(body, str)


def _mapped(body: Any, change: Any) -> Any:
    if isinstance(body, Secret):
        return change(body)
    if isinstance(body, dict):
        return {key: _mapped(value, change) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_mapped(value, change) for value in body]
    return body


def secrets_in(body: Any) -> set[str]:
    """Collect the values of all secrets of a body."""
    if isinstance(body, Secret):
        return {body.value}
    inner = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    return set().union(*map(secrets_in, inner))


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """Blot secrets out of what a platform said: some repeat what they were sent."""
    written = {form for secret in secrets for form in _forms(secret) if form}
    for form in sorted(written, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> tuple[str, ...]:
    """Give a text as it may be repeated: as it is, within JSON or Python's own, in one line."""
    escaped = (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret))
    return (secret, " ".join(secret.split()), *(form[1:-1] for form in escaped))


def advises(name: str) -> bool:
    """Tell whether a value that stands in a file would better be a reference.

    A manifest and a graph may hold a secret, so they are masked, but as a rule they hold none.
    """
    return name not in ("MANIFEST_JSON", "WARMUP_PROMPT_JSON") and sounds_secret(name)


def sounds_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret, or it is known to be one."""
    return _TELLING.search(name) is not None or names_secret(name)
