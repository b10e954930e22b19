"""The outbox: whatever is posted is on disk first, and tried until it arrives or is dead.

A promise is a letter for the case that this process dies: on disk like any other, and not tried
while the process lives. Before that it is withdrawn, or another letter takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from handler.errors import InvalidPayload
from handler.outbox.deliveries import Deliveries
from handler.outbox.held import Held
from handler.outbox.journal import Journal, new_id
from handler.outbox.letter_file import BrokenLetter, refuse_unsealed
from handler.outbox.records import OutboxFailed, PromiseGone, Terms
from handler.outbox.room import Room
from handler.outbox.sealed import Seal
from handler.outbox.sending import parsed_url
from handler.outbox.signing import signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from pydantic import SecretStr

    from handler.outbox.records import Delivery, Letter, Posted
    from handler.outbox.sending import Sender

log = logging.getLogger("comfyfn.outbox")
_T = TypeVar("_T")


class Outbox:
    """Delivers letters, at least once each, with the same id every time.

    Args:
        folder: where they are kept; other processes may have the same.
        sender: sends one; closed with the outbox.
        secret: WEBHOOK_SECRET, which letters' secrets are kept under; "" for none.
        listener: told what came of every try, in the event loop.
        clock: epoch seconds.
    """

    def __init__(
        self,
        folder: Path,
        sender: Sender,
        *,
        secret: str = "",
        terms: Terms | None = None,
        listener: Callable[[Delivery], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._terms = terms or Terms()
        self._sender = sender
        self._seal = Seal(secret) if secret else None
        self._clock = clock
        self._journal = Journal(folder, self._seal)
        self._held = Held()
        self._room = Room(self._journal, self._terms)
        self._deliveries = Deliveries(
            self._journal, self._held, sender, self._room, self._terms, listener, clock
        )
        self._room.give_way = self._deliveries.give_way
        self._room.most_of = self._deliveries.most_of
        self._last_id = ""
        self._promises: dict[str, int] = {}  # their sizes in bytes
        self._posts: set[asyncio.Task[Any]] = set()
        self._is_open = False
        self._watcher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        promised = f", {len(self._promises)} promised" if self._promises else ""
        pending = self._room.letters - len(self._promises)
        return f"<Outbox {pending} pending{promised}, {len(self._room.dead)} dead>"

    async def open(self) -> None:
        """Take over what is pending, and try all of it at once.

        Where the folder cannot be used, letters are held in memory: that is said in the log, and
        is no reason for a server not to start.
        """
        try:
            await asyncio.to_thread(self._journal.open)
            found = await asyncio.to_thread(self._journal.adopt, lockless=True)
            await self._room.look()
            if found:
                log.info("%d webhooks of an earlier run are pending", len(found))
            await self._take_in(found)
        except OSError as error:
            log.error("%s; webhooks will not survive a restart", _failed(error))
        self._deliveries.start()
        self._is_open = True
        if self._journal.is_open:
            self._watcher = asyncio.create_task(self._watch())

    async def check(self, url: str, secret: SecretStr | None = None) -> None:
        """Find out, before a job is queued, whether its webhook could be posted.

        Raises:
            InvalidPayload: the URL is none, its host does not exist, the secret has no key in
                it, or there is something to be kept secret and WEBHOOK_SECRET is not set.
            UrlNotAllowed: the address policy refuses the URL.
        """
        self._refuse(url, secret)
        await self._sender.check(url)

    def _refuse(self, url: str, secret: SecretStr | None) -> None:
        parsed_url(url)
        refuse_unsealed(url, secret, self._seal)
        if secret is not None and not signing_key(secret.get_secret_value()):
            raise InvalidPayload("the webhook's secret has no key in it: it is base64")

    async def post(self, letter: Letter, *, over: str | None = None) -> str:
        """Keep a letter for delivery; it survives whatever comes once this returns.

        Where the disk does not take it, it is held in memory, and the log says so.

        Args:
            over: a promise whose place the letter takes, at one moment: there is always one of
                the two on disk. Where this raises, the promise stands.

        Returns:
            The outbox's id for it.

        Raises:
            InvalidPayload: as by `check`.
            OutboxFull: there is no room, although what may give way has done so.
            OutboxFailed: its body cannot be read, or is too large to be held in memory where the
                disk does not take it; or the outbox is not open.
            PromiseGone: `over` is no promise, or not any more.
        """
        self._refuse(letter.url, letter.secret)
        task = self._carry_out(self._post(letter, over))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})  # the body's file may go when this is left
            raise

    def _carry_out(self, call: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Begin what ends even where its caller is cancelled: half-posted is neither."""
        task = asyncio.create_task(call)
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)
        return task

    async def _post(self, letter: Letter, over: str | None) -> str:
        letter_id, had = self._id_of(over)
        try:
            size = await self._make_room(letter, had)
            try:
                posted = await asyncio.to_thread(self._write, letter, letter_id, size)
            except BaseException:
                self._room.give_back(size, had)
                raise
        except BaseException as error:
            if had is not None:
                self._promises[letter_id] = had
            if isinstance(error, OSError):
                raise _failed(error) from error
            raise
        self._deliveries.add(posted)
        return letter_id

    def _id_of(self, over: str | None) -> tuple[str, int | None]:
        """Give a new id; or that of a promise, which is none from here on, and its size."""
        if not self._is_open:
            raise OutboxFailed("the outbox is closed")
        if over is None:
            self._last_id = new_id(self._last_id)
            return self._last_id, None
        had = self._promises.pop(over, None)
        if had is None:
            raise PromiseGone(f"{over[:40]} is no promise, or not any more")
        return over, had

    async def _make_room(self, letter: Letter, had: int | None = None) -> int:
        """Give the size of a letter that there is room for.

        Raises:
            OutboxFull: there is none.
            OSError: its body cannot be read, or the outbox.
        """
        size = await asyncio.to_thread(_size, letter)
        await self._room.make(size, had)
        return size

    async def promise(self, letter: Letter) -> str:
        """Keep a letter that is tried only where this process dies before it says otherwise.

        Where the disk does not take it, the log says so; all else is as if it did.

        Returns:
            The id for `post` or `withdraw`, of which one must follow.

        Raises:
            InvalidPayload, OutboxFull, OutboxFailed: as by `post`.
        """
        self._refuse(letter.url, letter.secret)
        task = self._carry_out(self._promise(letter))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._carry_out(self._take_back(task))
            raise

    async def _promise(self, letter: Letter) -> str:
        letter_id, _ = self._id_of(None)
        try:
            size = await self._make_room(letter)
        except OSError as error:
            raise _failed(error) from error
        self._promises[letter_id] = size
        try:
            now = self._clock()
            await asyncio.to_thread(self._journal.write, letter, letter_id, now, promise=True)
        except OSError as error:
            log.error("%s; nothing will be told if this process dies", _failed(error))
        return letter_id

    async def _take_back(self, promise: asyncio.Task[str]) -> None:
        """Withdraw a promise whose id nobody was given."""
        await asyncio.wait({promise})
        if promise.exception() is None:
            await self._withdraw(promise.result())

    async def withdraw(self, promise_id: str) -> None:
        """Remove a promise; one that is none any more is left as it is."""
        await asyncio.shield(self._carry_out(self._withdraw(promise_id)))

    async def _withdraw(self, promise_id: str) -> None:
        size = self._promises.pop(promise_id, None)
        if size is None:
            return
        self._room.leave(size)
        try:
            await asyncio.to_thread(self._journal.remove, promise_id)
        except OSError as error:
            log.error("the promise %s is not withdrawn: %s", promise_id, error.strerror)

    def _write(self, letter: Letter, letter_id: str, size: int) -> Posted:
        now = self._clock()
        try:
            return self._journal.write(letter, letter_id, now)
        except OSError as error:
            posted = self._held.put(letter, letter_id, now, size)
            if posted is None:
                raise
            log.error("%s; the webhook %s is held in memory", _failed(error), letter_id)
            return posted

    async def _take_in(self, letters: list[Posted]) -> None:
        for letter in letters:
            if letter.promise:  # whoever gave it is gone
                letter = await asyncio.to_thread(self._journal.fall_due, letter, self._clock())  # noqa: PLW2901
            self._room.add(letter.bytes)
            self._deliveries.add(letter)

    async def _watch(self) -> None:
        """Look for letters of processes that are gone, and of the command line."""
        while True:
            await asyncio.sleep(self._terms.watch_s)
            try:
                await self._take_in(await asyncio.to_thread(self._journal.adopt))
            except OSError as error:
                log.warning("the outbox cannot be read: %s", error)

    async def drain(self, timeout_s: float) -> int:
        """Deliver what can be in a time: whatever waits for its next try is tried now.

        Returns:
            How many letters are left; they stay on disk.
        """
        begun = time.monotonic()
        if self._posts:
            await asyncio.wait(self._posts, timeout=timeout_s)
        left = await self._deliveries.drain(max(0.0, timeout_s - (time.monotonic() - begun)))
        if left:
            log.warning("%d webhooks are left for the next start", left)
        return left

    async def close(self) -> None:
        """Stop; letters under way and pending are for the next start. More than once is fine.

        So are promises: there should be none left, since every job has ended by then.
        """
        self._is_open = False
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        tasks = {*self._posts} | ({watcher} if watcher is not None else set())
        if tasks:
            await asyncio.wait(tasks)
        if self._promises:
            log.error("%d promises are left: the next start delivers them", len(self._promises))
            self._promises.clear()
        await self._deliveries.stop()
        await self._sender.close()
        await asyncio.to_thread(self._journal.close)

    def pending(self) -> list[Posted]:
        """List the letters that this process is to deliver, oldest first; no promises."""
        return self._deliveries.pending()

    async def dead(self) -> list[Posted]:
        """List the letters that are not tried any more, oldest first."""
        return await asyncio.to_thread(self._journal.dead)

    async def resend(self, letter_id: str) -> bool:
        """Take a letter back from the dead and try it at once; tell whether it was there.

        Raises:
            OutboxFailed: it cannot be read.
        """
        try:
            letter = await asyncio.to_thread(self._journal.revive, letter_id, self._clock())
        except (BrokenLetter, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise OutboxFailed(f"the letter {letter_id} cannot be sent again: {why}") from error
        if letter is None:
            return False
        self._room.dead.pop(letter_id, None)
        await self._take_in([letter])
        return True

    async def drop(self, letter_id: str) -> bool:
        """Remove a letter, dead or pending; tell whether it was there. Promises stay."""
        gone = await asyncio.to_thread(self._journal.drop, letter_id)
        self._room.dead.pop(letter_id, None)
        self._deliveries.forget(letter_id)
        return gone


def _size(letter: Letter) -> int:
    return len(letter.body) if isinstance(letter.body, bytes) else letter.body.stat().st_size


def _failed(error: OSError) -> OutboxFailed:
    return OutboxFailed(
        f"the outbox cannot be written: {error.strerror or error}",
        hint="STATE_DIR is where it is",
    )
