"""Orders to cancel, left by a worker that was asked for a worker that has the job.

cancels/<instance>/<uid>
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
