"""Claims of idempotency keys: of all workers that are sent the same, one has it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import orjson

from handler.errors import StateUnavailable
from handler.state.layout import key_key
from handler.state.records import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.state.blobs import Blobs
    from handler.state.records import JobRecord

T = TypeVar("T")
_TRIES = 16


class Call(Protocol):
    """Does a blocking call in a thread."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Give what the call gives."""
        ...


class Keys:
    """Claims. Every method may raise StateUnavailable.

    Args:
        call: does a blocking call in a thread.
    """

    def __init__(self, blobs: Blobs, call: Call) -> None:
        self._blobs = blobs
        self._call = call

    async def claim(self, key: str, record: JobRecord, now: float | None = None) -> Claim:
        """Claim an idempotency key for a run, or tell who has it."""
        now = time.time() if now is None else now
        name, body = key_key(key), _claim_body(record, now)
        for _ in range(_TRIES):
            if await self._call(lambda: self._blobs.create(name, body)):
                return Claim(True, record.id, record.uid, record.digest, now)
            found = await self._call(partial(self._blobs.read, name))
            if found is not None:
                told = orjson.loads(found.body)
                return Claim(
                    False, told["id"], told["uid"], told["digest"], told["at"], found.version
                )
        raise StateUnavailable("an idempotency key changes all the time")

    async def who(self, key: str) -> Claim | None:
        """Tell who has a key; claim nothing."""
        found = await self._call(partial(self._blobs.read, key_key(key)))
        if found is None:
            return None
        told = orjson.loads(found.body)
        return Claim(False, told["id"], told["uid"], told["digest"], told["at"], found.version)

    async def take(
        self, key: str, record: JobRecord, claim: Claim, now: float | None = None
    ) -> bool:
        """Take a key over from a run that came to nothing, if it still has it."""
        body = _claim_body(record, time.time() if now is None else now)
        return await self._call(lambda: self._blobs.replace(key_key(key), body, claim.version))

    async def drop(self, key: str, uid: str) -> None:
        """Let go of a key, where this run has it."""
        found = await self._call(partial(self._blobs.read, key_key(key)))
        if found is not None and orjson.loads(found.body)["uid"] == uid:
            await self._call(partial(self._blobs.remove, key_key(key)))


def _claim_body(record: JobRecord, now: float) -> bytes:
    return orjson.dumps({"id": record.id, "uid": record.uid, "digest": record.digest, "at": now})
