"""Tries letters until each has arrived or is dead."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from handler.log_context import JobMark, speak_of
from handler.outbox.lanes import Lanes
from handler.outbox.letter_file import BrokenLetter
from handler.outbox.records import Delivery
from handler.outbox.sealed import Unsealable
from handler.outbox.sending import Answer
from handler.outbox.tired import next_tired
from handler.outbox.verdict import Reply, judge
from handler.trace import parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.outbox.held import Held
    from handler.outbox.journal import Journal
    from handler.outbox.records import Outcome, Posted, Terms
    from handler.outbox.room import Room
    from handler.outbox.sending import Sender
    from handler.outbox.verdict import Verdict

log = logging.getLogger("comfyfn.outbox")


class Deliveries:
    """The letters that are pending, and the tries under way.

    Args:
        held: those that are not on disk.
        room: counts them in and out.
        listener: told what came of every try, in the event loop.
        clock: epoch seconds.
    """

    def __init__(
        self,
        journal: Journal,
        held: Held,
        sender: Sender,
        room: Room,
        terms: Terms,
        listener: Callable[[Delivery], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._journal, self._held = journal, held
        self._sender, self._room = sender, room
        self._terms = terms
        self._listener = listener
        self._clock = clock
        self._lanes = Lanes(terms.most, terms.most_a_host)
        self._hurried = False
        self._haste: collections.Counter[str] = collections.Counter()
        self._left = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._tries: set[asyncio.Task[None]] = set()
        self._answered: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Deliveries {self._lanes!r}>"

    def start(self) -> None:
        """Begin to try what is due."""
        self._loop = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End every try; their letters stay on disk, but for those that were answered."""
        tasks = self._tries | ({self._loop} if self._loop else set())
        self._loop = None
        for task in tasks - self._answered:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def pending(self) -> list[Posted]:
        """List the letters, oldest first."""
        return sorted(self._lanes, key=lambda letter: letter.age_key)

    def add(self, letter: Posted) -> None:
        """Take in a letter that is on disk and counted, and try it at once."""
        self._lanes.add(letter, 0.0)
        self._wake.set()

    def forget(self, letter_id: str) -> None:
        """Leave a letter alone, whatever comes of the try that may be under way."""
        letter = self._lanes.get(letter_id)
        if letter is not None:
            self._held.remove(letter_id)
            self._let_go(letter)

    def give_way(self) -> Posted | None:
        """Give up a letter to make room for another; it is still on disk.

        Returns:
            The letter; None where there is none that has failed often enough.
        """
        letter = next_tired(self._lanes, self._terms)
        if letter is None:
            return None
        said = f"the outbox is full; before: {letter.said or 'not tried yet'}"
        letter = replace(letter, dead=True, said=said)
        self.forget(letter.id)
        self._tell(Delivery(letter, "dead", None, 0.0))
        return letter

    def most_of(self) -> tuple[str, int] | None:
        """Tell whose letters are the most of those pending, and how many; None without any."""
        counts = collections.Counter(letter.to for letter in self._lanes)
        return next(iter(counts.most_common(1)), None)

    async def _work(self) -> None:
        """Start tries as they are due."""
        now = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            for letter in self._lanes.take(now()):
                task = asyncio.create_task(self._try(letter))
                self._tries.add(task)
                task.add_done_callback(self._tried)
            due = self._lanes.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()

    def _tried(self, task: asyncio.Task[None]) -> None:
        self._tries.discard(task)
        self._answered.discard(task)
        self._changed.set()

    async def _try(self, letter: Posted) -> None:
        speak_of(JobMark(letter.job_id))
        begun = time.monotonic()
        answer = None
        try:
            answer = await self._sent(letter)
            if answer is None:
                self._let_go(letter)
                return
            task = asyncio.current_task()
            assert task is not None
            self._answered.add(task)
            verdict = judge(letter, answer.reply, self._terms, self._clock(), _dice())
            seconds = time.monotonic() - begun
            outcome = await self._settle(verdict)
            self._tell(Delivery(verdict.letter, outcome, answer.reply.status, seconds))
        except Exception:
            log.exception("webhook %s: a fault of ours", letter.id)
            self._put_back(letter, self._terms.longest_wait_s)
        finally:
            if answer is not None:
                await answer.close()

    async def _sent(self, letter: Posted) -> Answer | None:
        """Send a letter; None where it is not ours any more."""
        try:
            opened = self._held.get(letter.id)
            if opened is None:
                opened = await asyncio.to_thread(self._journal.read, letter)
            trace = parse_traceparent(opened.headers.get("traceparent", ""))
            if trace is not None:
                speak_of(JobMark(letter.job_id, trace.trace_id))
        except FileNotFoundError:
            return None
        except (Unsealable, BrokenLetter) as fault:
            return Answer(Reply(None, str(fault), hopeless=True))
        except OSError as error:
            return Answer(Reply(None, f"it cannot be read: {error.strerror}"))
        try:
            return await self._sender.send(letter, opened)
        except Exception as error:
            log.exception("webhook %s: a fault of ours", letter.id)
            return Answer(Reply(None, f"a fault of ours: {type(error).__name__}"))

    def _tell(self, delivery: Delivery) -> None:
        if self._listener is None:
            return
        try:
            self._listener(delivery)
        except Exception:
            log.exception("webhook %s: the listener is at fault", delivery.letter.id)

    async def _settle(self, verdict: Verdict) -> Outcome:
        """Do what the verdict says; what was delivered is removed before anything else.

        Returns:
            What it comes to: in a hurry, nothing is given up for its number of tries.
        """
        letter = verdict.letter
        what = f"webhook {letter.kind} {letter.id} to {letter.to}"
        if verdict.outcome == "delivered":
            await self._on_disk(self._remove, letter)
            log.info("%s: delivered at try %d", what, letter.tries)
            self._let_go(letter)
        elif verdict.outcome == "dead" and (verdict.final or not self._hurried):
            if await self._on_disk(self._journal.bury, letter):
                self._room.buried(letter)
            log.error("%s: given up after %d tries: %s", what, letter.tries, letter.said)
            self._let_go(letter)
        elif verdict.outcome == "dead":
            # Its tries were used up in a hurry: the next start gives it one more.
            if not self._held.remove(letter.id):
                await self._on_disk(self._journal.note, replace(letter, dead=False))
            self._left += 1
            self._let_go(letter)
            return "again"
        else:
            if letter.id not in self._held:
                await self._on_disk(self._journal.note, letter)
                if self._given_time(letter):
                    self._left += 1
                    self._let_go(letter)
                    return "again"
            wait_s = verdict.wait_s
            if self._hurried and not verdict.asked:
                wait_s = min(wait_s, self._terms.hurried_wait_s)
            level = logging.WARNING if letter.tries == 1 else logging.INFO
            log.log(level, "%s: %s; try %d in %.1f s", what, letter.said, letter.tries + 1, wait_s)
            self._put_back(letter, wait_s)
        return verdict.outcome

    def _given_time(self, letter: Posted) -> bool:
        """Tell whether a letter had its tries of a drain: a dead receiver must not cost all of it.

        The next start goes on with it.
        """
        if not self._hurried:
            return False
        self._haste[letter.id] += 1
        return self._haste[letter.id] >= self._terms.hurried_tries

    async def _on_disk(self, call: Callable[[Posted], None], letter: Posted) -> bool:
        """Change the disk; where it cannot be, the letter comes again at the next start."""
        if self._held.remove(letter.id):
            with contextlib.suppress(OSError):  # the promise whose place it could not take
                await asyncio.to_thread(self._remove, letter)
            return False
        try:
            await asyncio.to_thread(call, letter)
        except OSError as error:
            log.error("webhook %s stays on disk: %s", letter.id, error)
            return False
        return True

    def _remove(self, letter: Posted) -> None:
        self._journal.remove(letter.id)

    def _put_back(self, letter: Posted, wait_s: float) -> None:
        self._lanes.again(letter, asyncio.get_running_loop().time() + wait_s)
        self._wake.set()
        self._changed.set()

    def _let_go(self, letter: Posted) -> None:
        if self._lanes.get(letter.id) is not None:
            self._lanes.remove(letter.id)
            self._room.leave(letter.bytes)
        self._wake.set()
        self._changed.set()

    async def drain(self, timeout_s: float) -> int:
        """Deliver what can be in a time: whatever waits for its next try is tried now.

        It ends sooner where receivers asked for more time than there is.

        Returns:
            How many letters are left; they stay on disk.
        """
        self._hurried = True
        self._lanes.hurry()
        self._wake.set()
        deadline = asyncio.get_running_loop().time() + timeout_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._may_deliver(deadline):
                    self._changed.clear()
                    await self._changed.wait()
        return len(self._lanes) + self._left

    def _may_deliver(self, deadline: float) -> bool:
        """Tell whether anything is under way, or due before then."""
        due = self._lanes.next_due()
        return bool(self._tries) or (due is not None and due <= deadline)


def _dice() -> float:
    return random.random()  # noqa: S311 - no secret
