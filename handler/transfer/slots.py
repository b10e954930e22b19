"""Connections that the downloads of a downloader share, and no host may hold all of."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class _Gate:
    free: asyncio.Semaphore
    users: int = 0


@dataclass(slots=True)
class Slots:
    """Gives connections out, in the order they are asked for.

    Args:
        connections: at once, over all hosts.
        per_host: at once to one host, as URLs name it.
    """

    connections: int
    per_host: int
    _free: asyncio.Semaphore = field(init=False, repr=False)
    _gates: dict[str, _Gate] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.connections)

    @contextlib.asynccontextmanager
    async def of(self, url: str) -> AsyncIterator[None]:
        """Hold a connection to the host of a URL during a block."""
        host = host_of(url)
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = _Gate(asyncio.Semaphore(self.per_host))
        gate.users += 1
        try:
            # The host's first: who waits for it must not hold one that others could have.
            async with gate.free, self._free:
                yield
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[host]


def host_of(url: str) -> str:
    """Give the host (or bucket) of a URL, whatever its port; "" for a path of this machine."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""
