"""The queue before the engine: first come, first served, with a position everybody can see."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Slots(Generic[T]):
    """A few slots and a line of owners waiting for one."""

    def __init__(self, size: int, moved: Callable[[T, int], None] | None = None) -> None:
        """Make `size` slots.

        Args:
            moved: called with an owner and its new position when the line moves.
        """
        self._size = size
        self._held: list[T] = []
        self._line: collections.deque[tuple[T, asyncio.Future[None]]] = collections.deque()
        self._moved = moved

    def __repr__(self) -> str:
        return f"<Slots {len(self._held)}/{self._size} waiting={len(self._line)}>"

    def __len__(self) -> int:
        """How many slots are taken."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many owners wait."""
        return len(self._line)

    def position(self, owner: T) -> int | None:
        """How many are before this owner, those with a slot included; None if it is unknown."""
        for index, held in enumerate(self._held):
            if held is owner:
                return index
        for index, (waiting, _) in enumerate(self._line):
            if waiting is owner:
                return index + len(self._held)
        return None

    async def acquire(self, owner: T) -> None:
        """Wait for a slot; a cancelled wait leaves the line."""
        if len(self._held) < self._size and not self._line:
            self._held.append(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (owner, turn)
        self._line.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(owner)  # the turn came in the same moment
            else:
                with contextlib.suppress(ValueError):
                    self._line.remove(entry)
                self._tell()
            raise

    def release(self, owner: T) -> None:
        """Give the slot back; the next in line gets it."""
        self._held.remove(owner)
        while self._line and len(self._held) < self._size:
            following, turn = self._line.popleft()
            if not turn.done():
                self._held.append(following)
                turn.set_result(None)
        self._tell()

    def _tell(self) -> None:
        if self._moved is None:
            return
        for index, (owner, _) in enumerate(self._line):
            self._moved(owner, index + len(self._held))
