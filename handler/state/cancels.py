"""What workers leave for each other about a job that one of them has: marks, and no more.

cancels/<instance>/<uid>         shall be cancelled
waits/<instance>/<uid>/<other>   has callers at another worker
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.state.records import JobRecord
    from handler.state.store import StateStore


class Cancels:
    """The orders. Every method may raise StateUnavailable."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def ask(self, record: JobRecord) -> None:
        """Leave an order for the worker that runs this."""
        await self._store.call(
            partial(self._store.blobs.mark, f"cancels/{record.instance}/{record.uid}")
        )

    async def asked(self, instance: str) -> list[str]:
        """List the orders that were left for a worker.

        Returns:
            The uids of the runs.
        """
        keys = await self._store.call(
            partial(self._store.blobs.names, f"cancels/{instance}/", "", 1000)
        )
        return [key.rpartition("/")[2] for key in keys]

    async def heeded(self, instance: str, uid: str) -> None:
        """Take an order away."""
        await self._store.call(partial(self._store.blobs.remove, f"cancels/{instance}/{uid}"))


class Waits:
    """Who waits elsewhere. Every method may raise StateUnavailable.

    Args:
        us: the worker that its callers are at.
    """

    def __init__(self, store: StateStore, us: str) -> None:
        self._store = store
        self._us = us

    async def begin(self, record: JobRecord) -> None:
        """Say that a caller of ours waits for this run."""
        await self._store.call(partial(self._store.blobs.mark, self._key(record)))

    async def end(self, record: JobRecord) -> None:
        """Say that none does any more."""
        await self._store.call(partial(self._store.blobs.remove, self._key(record)))

    async def any(self, uid: str) -> bool:
        """Tell whether another worker has callers for a run of ours."""
        prefix = f"waits/{self._us}/{uid}/"
        return bool(await self._store.call(partial(self._store.blobs.names, prefix, "", 1)))

    def _key(self, record: JobRecord) -> str:
        return f"waits/{record.instance}/{record.uid}/{self._us}"
