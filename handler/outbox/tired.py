"""Which pending letters give way where the outbox is full: those of receivers that take nothing.

One receiver that is down for a day would otherwise fill it, and no other could be promised a post.

Pure: it knows no clock and starts nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.outbox.lanes import Lanes
    from handler.outbox.records import Posted, Terms


def next_tired(lanes: Lanes, terms: Terms) -> Posted | None:
    """Pick the letter that is missed least; none that is under way, and no promise.

    First, where a host that fails has more than its share of the room, the oldest of its letters,
    tried or not: a receiver that hangs leaves no time to try each. Then the oldest of all that
    have failed several times.

    Returns:
        None where there is none.
    """
    letters, size = Counter[str](), Counter[str]()
    failing: set[str] = set()
    for letter in lanes:
        letters[letter.to] += 1
        size[letter.to] += letter.bytes
        if letter.tries >= terms.tired_tries:
            failing.add(letter.to)
    most, most_bytes = terms.max_letters * terms.host_share, terms.max_bytes * terms.host_share
    greedy = {host for host in failing if letters[host] > most or size[host] > most_bytes}
    tired: Posted | None = None
    for letter in lanes.waiting() if failing else ():  # as they came
        if letter.to in greedy:
            return letter
        if tired is None and letter.tries >= terms.tired_tries:
            if not greedy:
                return letter
            tired = letter
    return tired
