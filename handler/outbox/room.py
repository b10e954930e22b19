"""How much the outbox holds, and what goes where it is full.

The dead go first, then what was tried in vain several times: a receiver that takes nothing must
not cost others theirs. Promises never go.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from handler.outbox.records import OutboxFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.outbox.journal import Journal
    from handler.outbox.records import Posted, Terms

log = logging.getLogger("comfyfn.outbox")
RETRY_AFTER_S = 30.0
"""Some letter has arrived by then, or failed often enough to give way."""


class Room:
    """Counts letters and bytes, dead ones too.

    Attributes:
        letters, bytes: pending ones, promises, and those that are being written.
        dead: sizes in bytes by id, oldest first.
        give_way: gives up the pending letter that is missed least; None where each is worth
            its room. It has left the room by then, and is still on disk.
        most_of: whose letters are the most of those pending, and how many.
    """

    def __init__(self, journal: Journal, terms: Terms) -> None:
        self._journal, self._terms = journal, terms
        self.letters = self.bytes = 0
        self.dead: dict[str, int] = {}
        self.give_way: Callable[[], Posted | None] = lambda: None
        self.most_of: Callable[[], tuple[str, int] | None] = lambda: None

    def __repr__(self) -> str:
        return f"<Room {self.letters} pending, {len(self.dead)} dead>"

    async def look(self) -> None:
        """Count the dead anew: other processes bury, drop and revive as well.

        Raises:
            OSError: the folder cannot be read.
        """
        self.dead = await asyncio.to_thread(self._journal.dead_sizes)

    async def make(self, size: int, instead_of: int | None = None) -> None:
        """Take room for one more letter; others give way, see above, the oldest first.

        Args:
            size: bytes.
            instead_of: the bytes of a promise whose room it gets: one that is not larger always
                fits. None for a letter that comes anew.

        Raises:
            OutboxFull: all of it is taken by pending ones that are worth it.
            OSError: the folder cannot be read or written.
        """
        self.add(size)
        if instead_of is not None:
            self.leave(instead_of)
            if size <= instead_of:
                return
        try:
            if self._is_over:
                await self.look()
            while self._is_over and self.dead:
                oldest = next(iter(self.dead))
                del self.dead[oldest]
                log.warning("the outbox is full: the dead letter %s is dropped", oldest)
                await asyncio.to_thread(self._journal.drop, oldest)
            while self._too_many_bytes or (instead_of is None and self._is_over):
                letter = self.give_way()
                if letter is None:
                    raise self._full()
                log.warning(
                    "webhook %s %s to %s is dropped after %d tries: %s; %s",
                    *(letter.kind, letter.id, letter.to, letter.tries, letter.said),
                    self._whose(),
                )
                await asyncio.to_thread(self._journal.drop, letter.id)
        except BaseException:
            self.give_back(size, instead_of)
            raise

    def _full(self) -> OutboxFull:
        full = OutboxFull(
            f"the outbox is full: {self.letters - 1} webhooks are pending",
            hint="OUTBOX_MAX and OUTBOX_MAX_MB set its size; `comfyfn outbox list` tells",
            retry_after_s=RETRY_AFTER_S,
        )
        log.warning("%s; %s", full.message, self._whose())  # a caller has no business with whose
        return full

    def _whose(self) -> str:
        most = self.most_of()
        return f"{most[1]} are pending to {most[0]}" if most else "none is being tried"

    def give_back(self, size: int, instead_of: int | None = None) -> None:
        """Undo what `make` did."""
        self.leave(size)
        if instead_of is not None:
            self.add(instead_of)

    @property
    def _is_over(self) -> bool:
        too_many = self.letters + len(self.dead) > self._terms.max_letters
        return too_many or self._too_many_bytes

    @property
    def _too_many_bytes(self) -> bool:
        return self.bytes + sum(self.dead.values()) > self._terms.max_bytes

    def add(self, size: int) -> None:
        """Count a pending letter in."""
        self.letters += 1
        self.bytes += size

    def leave(self, size: int) -> None:
        """Count a pending letter out."""
        self.letters -= 1
        self.bytes -= size

    def buried(self, letter: Posted) -> None:
        """Count a dead letter in."""
        self.dead[letter.id] = letter.bytes
