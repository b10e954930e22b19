"""Letters that the disk did not take: full, or not to be written. Better in memory than lost."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from handler.outbox.letter_file import posted_of
from handler.outbox.records import Opened

if TYPE_CHECKING:
    from handler.outbox.records import Letter, Posted

log = logging.getLogger("comfyfn.outbox")


class Held:
    """Letters in memory; they are gone with the process.

    Args:
        most_bytes: of their bodies together.
    """

    def __init__(self, most_bytes: int = 64 << 20) -> None:
        self._most_bytes = most_bytes
        self._opened: dict[str, Opened] = {}

    def __repr__(self) -> str:
        return f"<Held {len(self._opened)} letters>"

    def __contains__(self, letter_id: str) -> bool:
        return letter_id in self._opened

    def put(self, letter: Letter, letter_id: str, now: float, size: int) -> Posted | None:
        """Hold a letter; None where it is too much.

        Raises:
            OSError: its body cannot be read.
        """
        if size + sum(one.bytes for one in self._opened.values()) > self._most_bytes:
            return None
        body = letter.body if isinstance(letter.body, bytes) else letter.body.read_bytes()
        secret = letter.secret.get_secret_value() if letter.secret is not None else None
        opened = Opened(letter.url, dict(letter.headers), secret, body, 0, len(body))
        self._opened[letter_id] = opened
        return replace(posted_of(letter, letter_id, now), bytes=len(body))

    def get(self, letter_id: str) -> Opened | None:
        """Give what a try needs; None where it is not held."""
        return self._opened.get(letter_id)

    def remove(self, letter_id: str) -> bool:
        """Let go of a letter; tell whether it was held."""
        return self._opened.pop(letter_id, None) is not None
