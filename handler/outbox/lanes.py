"""Which letter may be tried now: due, first of its order, and neither host nor outbox at its limit.

An order is of letters to one host: a receiver that does not answer holds up nobody else's.

Pure: it knows no clock and starts nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.outbox.records import Posted


class Lanes:
    """Letters that wait.

    Args:
        most: tries under way at once.
        most_a_host: of them to one host, so that a slow one does not hold the others.
    """

    def __init__(self, most: int, most_a_host: int) -> None:
        self._most, self._most_a_host = most, most_a_host
        self._letters: dict[str, Posted] = {}
        self._lanes: dict[str, deque[str]] = {}  # the first of each is scheduled
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # may hold what is not due any more, see _due
        self._ready: dict[str, deque[str]] = {}  # by host, in the order of their turns
        self._running: dict[str, str] = {}  # id -> host
        self._busy: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[Posted]:
        return iter(list(self._letters.values()))

    def __repr__(self) -> str:
        return f"<Lanes {len(self)} letters, {len(self._running)} under way>"

    def waiting(self) -> Iterator[Posted]:
        """Give the letters that are not under way."""
        return (letter for letter in self if letter.id not in self._running)

    def get(self, letter_id: str) -> Posted | None:
        """Give a letter."""
        return self._letters.get(letter_id)

    def add(self, letter: Posted, due: float) -> None:
        """Take a letter in; it is due then, or when those before it in its order are gone."""
        self._letters[letter.id] = letter
        lane = self._lanes.setdefault(_lane(letter), deque())
        lane.append(letter.id)
        if len(lane) == 1:
            self._schedule(letter.id, due)

    def take(self, now: float) -> list[Posted]:
        """Give the letters that are to be tried now; they count as under way."""
        while self._heap and self._heap[0][0] <= now:
            due, letter_id = heapq.heappop(self._heap)
            if self._due.get(letter_id) == due:
                del self._due[letter_id]
                host = self._letters[letter_id].to
                self._ready.setdefault(host, deque()).append(letter_id)
        taken: list[Posted] = []
        for host in list(self._ready):
            queue = self._ready[host]
            mine = list(self._take_of(host, queue))
            if mine or not queue:
                del self._ready[host]
            if mine and queue:
                self._ready[host] = queue  # at the end: the others' turn comes first
            taken += mine
        return taken

    def _take_of(self, host: str, queue: deque[str]) -> Iterator[Posted]:
        while queue and self._busy[host] < self._most_a_host and len(self._running) < self._most:
            letter = self._letters.get(queue.popleft())
            if letter is None:
                continue  # dropped meanwhile
            self._running[letter.id] = host
            self._busy[host] += 1
            yield letter

    def again(self, letter: Posted, due: float) -> None:
        """Put a letter back after a try; one that was dropped during it stays away."""
        self._ended(letter.id)
        if letter.id in self._letters:
            self._letters[letter.id] = letter
            self._schedule(letter.id, due)

    def remove(self, letter_id: str) -> None:
        """Let go of a letter, under way or not; the next of its order is due at once."""
        self._ended(letter_id)
        letter = self._letters.pop(letter_id, None)
        if letter is None:
            return
        self._due.pop(letter_id, None)
        lane = self._lanes[_lane(letter)]
        first = lane[0] == letter_id
        lane.remove(letter_id)
        if not lane:
            del self._lanes[_lane(letter)]
        elif first:
            self._schedule(lane[0], 0.0)

    def hurry(self) -> None:
        """Make everything due that waits for its time."""
        for letter_id in list(self._due):
            self._schedule(letter_id, 0.0)

    def next_due(self) -> float | None:
        """Tell when the next letter is due that is not yet; None where there is none."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _schedule(self, letter_id: str, due: float) -> None:
        self._due[letter_id] = due
        heapq.heappush(self._heap, (due, letter_id))

    def _ended(self, letter_id: str) -> None:
        host = self._running.pop(letter_id, None)
        if host is not None:
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]


def _lane(letter: Posted) -> str:
    return f"{letter.to} {letter.order_key}" if letter.order_key else letter.id
