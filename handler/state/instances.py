"""Which workers are alive, and what becomes of the jobs of those that are not.

A worker writes a sign of life every few seconds. Another one judges by its own clock how long the
sign has not changed: clocks of two machines need not agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from handler.errors import WorkerLost

if TYPE_CHECKING:
    from handler.state.records import JobRecord
    from handler.state.store import StateStore

log = logging.getLogger("comfyfn.state")
_FORGOTTEN_S = 86400.0
_FAR = 10
_TOKEN = re.compile(r"[\da-f]{8}")
_UNSAFE = re.compile(r"[^a-z0-9_.-]+")


@dataclass(slots=True)
class Instance:
    """Our own name among the workers.

    Attributes:
        name: for people; others may be called the same.
        id: the same after a restart on this machine with this STATE_DIR, and nobody else's: not
            even that of a worker with the same INSTANCE_ID.
        lock: the descriptor that holds it; None where nothing could be locked.
    """

    name: str
    id: str
    lock: int | None = None

    def renew(self, name: str = "") -> None:
        """Be somebody else: a copy of this process is, or may be, alive under the same id.

        Args:
            name: INSTANCE_ID; "" for the host's name.
        """
        self.close()  # its file stays: the id in it is the copy's
        self.name = name or os.uname().nodename
        self.id = f"{safe_instance(self.name)}-{secrets.token_hex(4)}"

    def close(self) -> None:
        """Let go of the name; more than once is fine."""
        lock, self.lock = self.lock, None
        if lock is not None:
            os.close(lock)


def take_instance(folder: Path, name: str = "") -> Instance:
    """Take the id of a process that is gone, or a new one.

    Args:
        folder: STATE_DIR's.
        name: INSTANCE_ID; "" for the host's name.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = name or os.uname().nodename
    base = safe_instance(name)
    for number in range(1, 1000):
        path = folder / f"{base}.{_kernel()}.{number}"
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a process of this machine has it
            os.close(handle)
            continue
        except OSError:
            os.close(handle)
            break  # no locks here: nobody can tell whose an id is
        told = os.pread(handle, 64, 0).decode(errors="replace")
        if not _TOKEN.fullmatch(told):
            told = secrets.token_hex(4)
            os.ftruncate(handle, 0)
            os.pwrite(handle, told.encode(), 0)
        return Instance(name, f"{base}-{told}", handle)
    return Instance(name, f"{base}-{secrets.token_hex(4)}")


def safe_instance(name: str) -> str:
    """Make a name that may be a part of a key."""
    return _UNSAFE.sub("-", name.lower()).strip(".-")[:80] or "worker"


def _kernel() -> str:
    """Tell the running kernel: a lock that another host holds may not be seen from here."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return "host"


@dataclass(slots=True)
class _Seen:
    """How long we have seen the same sign."""

    beat: float | None
    clock: float
    still_s: float = 0.0


class Watch:
    """Judges who is gone. Pure.

    Args:
        lost_s: of a sign that does not change.
    """

    def __init__(self, lost_s: float) -> None:
        self._lost_s = lost_s
        self._seen: dict[str, _Seen] = {}

    def look(self, instance: str, beat: float | None, now: float, clock: float) -> bool:
        """Tell whether an instance is gone.

        Args:
            beat: when it gave its last sign, by its own clock; None where there is no sign.
            now: Unix seconds here.
            clock: monotonic seconds here.
        """
        seen = self._seen.get(instance)
        if seen is None or seen.beat != beat:
            self._seen[instance] = _Seen(beat, clock)
            # No two clocks differ that much: who is new here need not watch it first.
            return seen is None and beat is not None and now - beat > self._lost_s * _FAR
        # While we could not look, it may not have been able to give a sign, either.
        seen.still_s += min(clock - seen.clock, self._lost_s / 2)
        seen.clock = clock
        return seen.still_s > self._lost_s

    def keep_only(self, instances: set[str]) -> None:
        """Forget all others."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in instances}


class Instances:
    """Signs of life, ours and others'.

    Args:
        own: our name, from `take_instance`.
        lost_s: after which a worker without a new sign is gone; several times `beat`'s interval.
    """

    def __init__(self, store: StateStore, own: str, lost_s: float = 60.0) -> None:
        self._store = store
        self._own = own
        self._lost_s = lost_s
        self._watch = Watch(lost_s)
        self._lost: set[str] = set()

    def __repr__(self) -> str:
        return f"<Instances {self._own}, {len(self._lost)} lost>"

    async def open(self, now: float) -> list[JobRecord]:
        """Give the first sign, and end the jobs that our last process left.

        Returns:
            Those jobs, failed now; their callers are to be told.
        """
        await self.beat(now)
        await self._forget_old(now)
        return await self._bury(self._own, now)

    async def beat(self, now: float) -> None:
        """Give a sign of life."""
        body = orjson.dumps({"at": now})
        await self._store.call(partial(self._store.blobs.mark, _key(self._own), body))

    async def orphans(self, now: float, clock: float) -> list[JobRecord]:
        """End the jobs of workers that are gone. Call it about as often as `beat`.

        Args:
            now: Unix seconds.
            clock: monotonic seconds.

        Returns:
            Those jobs, failed now by us: of all workers that look, one is told of each.
        """
        marks = await self._store.call(partial(self._store.blobs.names, "active/", "", 10_000))
        working = {mark.split("/")[1] for mark in marks} - {self._own}
        ended: list[JobRecord] = []
        for instance in sorted(working):
            beat = await self._last_beat(instance)
            if not self._watch.look(instance, beat, now, clock):
                self._lost.discard(instance)
                continue
            log.warning("the worker %s gives no sign of life: its jobs have failed", instance)
            self._lost.add(instance)
            ended += await self._bury(instance, now)
        self._watch.keep_only(working)
        self._lost &= working
        return ended

    def renew(self, own: str) -> None:
        """Go on under another name, and watch the others anew: their time went on without us."""
        self._own = own
        self._watch = Watch(self._lost_s)

    def lost(self, instance: str) -> bool:
        """Tell whether a worker is known to be gone."""
        return instance in self._lost

    async def close(self) -> None:
        """Take our sign away: no job is left."""
        await self._store.call(partial(self._store.blobs.remove, _key(self._own)))

    async def _bury(self, instance: str, now: float) -> list[JobRecord]:
        ended = []
        for record in await self._store.abandoned(instance):
            envelope = WorkerLost(
                "the worker that had the job ended without a word",
                hint="send it again",
                details={"instance": instance, "phase": record.phase},
            ).envelope()
            final = replace(record, phase="failed", finished=now, error=envelope)
            final = final.told({"type": "failed", "data": envelope})
            if await self._end(final):
                ended.append(final)
        return ended

    async def _end(self, final: JobRecord) -> bool:
        found = await self._store.read(final.id)
        if found is None or found.record.uid != final.uid or found.record.final:
            return False
        return await self._store.replace(final, found.version)

    async def _last_beat(self, instance: str) -> float | None:
        found = await self._store.call(partial(self._store.blobs.read, _key(instance)))
        if found is None:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return float(orjson.loads(found.body)["at"])
        return None

    async def _forget_old(self, now: float) -> None:
        keys = await self._store.call(partial(self._store.blobs.names, "instances/", "", 10_000))
        beats = await asyncio.gather(*(self._last_beat(key.partition("/")[2]) for key in keys))
        for key, beat in zip(keys, beats, strict=True):
            if beat is None or now - beat > _FORGOTTEN_S:
                await self._store.call(partial(self._store.blobs.remove, key))


def _key(instance: str) -> str:
    return f"instances/{instance}"
