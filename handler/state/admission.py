"""Whether a job that is sent is run, joined, or answered from memory; common to all workers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from handler.errors import Conflict, HandlerError, JobCancelled, StateUnavailable
from handler.state.idempotency import Way, by_id, by_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.state.records import Claim, JobRecord
    from handler.state.store import StateStore

log = logging.getLogger("comfyfn.state")
_TRIES = 64
_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Entered:
    """What was decided.

    Attributes:
        way: RUN, JOIN or STORED.
        record: of the run that gives the answer; with RUN the own one, which is written.
    """

    way: Way
    record: JobRecord


async def _all_there(_: JobRecord) -> bool:
    return True


class Admission:
    """Decides, and writes the record of what is to be run.

    Args:
        lost: tells whether an instance is known to be gone.
        servable: tells whether the outputs of a record can still be had.
    """

    def __init__(
        self,
        store: StateStore,
        lost: Callable[[str], bool],
        servable: Callable[[JobRecord], Awaitable[bool]] = _all_there,
    ) -> None:
        self._store = store
        self._lost = lost
        self._servable = servable
        self._left: set[asyncio.Task[None]] = set()

    async def enter(self, record: JobRecord, *, again: bool = False) -> Entered:
        """Take a job in; `record.key` is its idempotency key with its scope, `record.id` its id.

        Of many at once with one key or one id, one is told RUN.

        Args:
            again: as `by_key` has it.

        Raises:
            Conflict: the key or the id stands for another payload.
            StateUnavailable: nothing can be decided now.
        """
        entering = asyncio.create_task(self._enter(record, again))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            # It may be written already: a record that nobody runs would be joined for ever.
            withdrawing = asyncio.create_task(self._withdraw(entering))
            self._left.add(withdrawing)
            withdrawing.add_done_callback(self._left.discard)
            raise

    async def known(self, record: JobRecord, *, again: bool = False) -> Entered | None:
        """Find the run that a job is one with by its key; write nothing.

        Raises:
            Conflict: the key stands for another payload.
            StateUnavailable: it cannot be known.
        """
        claim = await self._store.keys.who(record.key) if record.key is not None else None
        other = await self._run_of(claim.id, claim.uid) if claim is not None else None
        if claim is None or other is None:
            return None
        way = await self._judged(claim, other, record.digest, again)
        if way is Way.CONFLICT:
            raise _conflict("idempotency key", "key")
        return None if way is Way.RUN else Entered(way, other)

    async def _judged(self, claim: Claim, other: JobRecord | None, digest: str, again: bool) -> Way:
        return by_key(
            claim,
            other,
            digest,
            time.time(),
            lost=other is not None and self._lost(other.instance),
            again=again,
            servable=other is None or await self._servable(other),
        )

    async def settle(self) -> None:
        """Wait until what was left halfway is put right."""
        await asyncio.gather(*self._left)

    async def _withdraw(self, entering: asyncio.Task[Entered]) -> None:
        try:
            entered = await entering
            if entered.way is Way.RUN:
                error = JobCancelled("the caller went away", retryable=True).envelope()
                now = time.time()
                await self._store.update(
                    entered.record.id,
                    entered.record.uid,
                    lambda one: replace(one, phase="cancelled", finished=now, error=error),
                )
                if entered.record.key is not None:  # it has never run: the next one shall
                    await self._store.keys.drop(entered.record.key, entered.record.uid)
        except HandlerError as fault:
            log.warning("a job that was not begun: %s", fault.message)

    async def _enter(self, record: JobRecord, again: bool) -> Entered:
        if record.key is None:
            return await self._by_id(record)
        entered = await self._by_key(record.key, record, again)
        if entered is not None:
            return entered
        try:
            entered = await self._by_id(record)
        except BaseException:
            await asyncio.shield(self._store.keys.drop(record.key, record.uid))
            raise
        if entered.way is not Way.RUN:  # the key is to lead to the run that it joined
            claim = await self._store.keys.claim(record.key, record)
            await self._store.keys.take(record.key, entered.record, claim)
        return entered

    async def _by_key(self, key: str, record: JobRecord, again: bool) -> Entered | None:
        """Claim the key; None where it is ours."""
        for _ in range(_TRIES * 4):
            claim = await self._store.keys.claim(key, record)
            if claim.mine:
                return None
            other = await self._run_of(claim.id, claim.uid)
            way = await self._judged(claim, other, record.digest, again)
            if way is Way.CONFLICT:
                raise _conflict("idempotency key", "key")
            if way is Way.RUN:
                if await self._store.keys.take(key, record, claim):
                    return None
            elif other is not None:
                return Entered(way, other)
            else:  # claimed, and its record is not written yet
                await asyncio.sleep(_PAUSE_S)
        raise StateUnavailable("an idempotency key changes all the time")

    async def _by_id(self, record: JobRecord) -> Entered:
        for _ in range(_TRIES):
            found = await self._store.read(record.id)
            if found is None:
                if await self._store.create(record):
                    return Entered(Way.RUN, record)
                continue
            way = by_id(found.record, record.digest, lost=self._lost(found.record.instance))
            if way is Way.CONFLICT:
                raise _conflict("id", "id")
            if way is Way.JOIN:
                return Entered(way, found.record)
            if await self._store.create(record, over=found):
                return Entered(Way.RUN, record)
        raise StateUnavailable(f"the record of job {record.id!r} changes all the time")

    async def _run_of(self, job_id: str, uid: str) -> JobRecord | None:
        found = await self._store.read(job_id)
        return found.record if found is not None and found.record.uid == uid else None


def _conflict(what: str, location: str) -> Conflict:
    return Conflict(
        f"this {what} stands for another payload",
        location=location,
        hint=f"send another {what}, or the same payload as before",
    )
