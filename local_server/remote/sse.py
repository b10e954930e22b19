"""Server-sent events, line by line. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from local_server.remote.faults import Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_CHARACTERS = 64 << 20
"""Of one event: whoever sends more never ends it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        id: the last one that was told; "" for none.
        data: what its JSON is; {} where that is no object.
    """

    id: str
    type: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.type in {"succeeded", "failed", "cancelled"}


class SseReader:
    """Makes events of lines.

    Args:
        most: characters of one event.

    Attributes:
        last_id: of the last event that came whole.
    """

    def __init__(self, last_id: str = "", most: int = MOST_CHARACTERS) -> None:
        self.last_id = self._id = last_id
        self._type = ""
        self._data: list[str] = []
        self._size, self._most = 0, most

    def feed(self, line: str) -> Event | None:
        """Take a line without its end; give the event that it ends, if there is one.

        Raises:
            Truncated: the event does not end.
        """
        self._size = self._size + len(line) if line else 0
        if self._size > self._most:
            raise _endless(self._most)
        if not line:
            return self._whole()
        if line.startswith(":"):
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _whole(self) -> Event | None:
        kind, data = self._type or "message", self._data
        self._type, self._data = "", []
        self.last_id = self._id  # not before: an event that was cut off is asked for again
        if not data:
            return None
        try:
            told = orjson.loads("\n".join(data))
        except ValueError:
            told = None
        return Event(self.last_id, kind, told if isinstance(told, dict) else {})


async def lines_of(blocks: AsyncIterator[bytes], most: int = MOST_CHARACTERS) -> AsyncIterator[str]:
    """Cut a stream into lines without their ends; what comes after the last end is none.

    Raises:
        Truncated: a line does not end.
    """
    parts: list[bytes] = []
    size = 0
    async for block in blocks:
        *ended, rest = block.split(b"\n")
        if ended:
            whole = [b"".join((*parts, ended[0])), *ended[1:]]
            parts, size = [], 0
            for line in whole:
                yield line.removesuffix(b"\r").decode(errors="replace")
        parts.append(rest)
        size += len(rest)
        if size > most:
            raise _endless(most)


def _endless(most: int) -> Truncated:
    return Truncated(f"an event of more than {most:,} characters is none of ours")
