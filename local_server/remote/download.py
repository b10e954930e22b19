"""Outputs fetched to files; what a cut connection left is gone on with."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx

from local_server.remote.faults import Truncated, Unreachable, failure_of_response
from local_server.remote.link import Link, read

if TYPE_CHECKING:
    from pathlib import Path

NOT_HERE_TRIES = 40
"""Of a job that this server took: behind a load balancer it is another worker who knows it."""
NOT_HERE_PAUSE_S = 0.25
MOST_STUCK = 10
"""Breaks without a byte between them."""
_NOT_FOR_US = {401, 403, 404, 410}


class Fetch:
    """Fetches outputs.

    Args:
        link: to the server of the job; None where it has none that gives outputs.
        outside: a link without headers of ours, for all other servers; made where it is left out.
    """

    def __init__(self, link: Link | None = None, outside: Link | None = None) -> None:
        self._link = link
        self._outside = outside

    async def close(self) -> None:
        """Close what was made here."""
        if self._outside is not None:
            await self._outside.close()

    async def own(self, path: str, into: Path, facts: dict[str, Any]) -> bool:
        """Fetch an output from the server of the job.

        Raises:
            HandlerError: it cannot be had.
        """
        if self._link is None:
            raise Truncated(f"{facts.get('filename')}: there is no server to ask for it")
        size = facts.get("bytes")
        await fetched(self._link, path, into, size if isinstance(size, int) else None)
        return True

    async def foreign(self, url: str, into: Path) -> bool:
        """Fetch an output from where it was stored; False where that is closed to us.

        Raises:
            Unreachable, Truncated: it cannot be had.
        """
        self._outside = self._outside or Link("", follow=True)
        try:
            await fetched(self._outside, url, into, None, tries=1)
        except _Closed:
            return False
        return True


class _Closed(Exception):
    """The server does not give it to us."""


async def fetched(
    link: Link, path: str, into: Path, size: int | None, tries: int = NOT_HERE_TRIES
) -> None:
    """Fetch to a file, resuming after every break.

    Args:
        size: bytes it must have; None where that is not known.
        tries: how often "not here" is asked again.

    Raises:
        HandlerError: it cannot be had.
    """
    etag, whole, stuck = "", size, 0
    while True:
        have = into.stat().st_size
        if whole is not None and have >= whole > 0:
            break
        headers = {"Accept-Encoding": "identity"}
        if have and etag:
            headers |= {"Range": f"bytes={have}-", "If-Range": etag}
        try:
            async with link.stream(path, headers) as response:
                if response.status_code in _NOT_FOR_US and tries > 1:
                    tries -= 1
                    if response.status_code != 404:
                        raise failure_of_response(await read(response), link.base)
                    await asyncio.sleep(NOT_HERE_PAUSE_S)
                    continue
                await _refuse(response, link, foreign=tries == 1)
                etag = _strong(response.headers.get("etag", ""))
                if response.status_code != 206:
                    have = 0
                    whole = _length(response) if size is None else size
                await _written(response, into, have, whole)
        except httpx.TransportError as error:
            went_on = into.stat().st_size > have
            stuck = 0 if went_on else stuck + 1
            if stuck > MOST_STUCK:
                raise Unreachable(f"an output breaks off again and again: {error}") from error
            if went_on:
                link.forget()
            await link.lost(error)
            continue
        break
    _sized(into, whole, path)


async def _refuse(response: httpx.Response, link: Link, *, foreign: bool) -> None:
    """Raise what an answer without the bytes means."""
    if response.status_code < 300:
        return
    if foreign and response.status_code in _NOT_FOR_US:
        raise _Closed
    if response.status_code in {429, 500, 502, 503, 504}:
        raise httpx.RemoteProtocolError(f"{response.status_code}")
    raise failure_of_response(await read(response), link.base)


async def _written(response: httpx.Response, into: Path, have: int, whole: int | None) -> None:
    with into.open("r+b") as target:
        target.seek(have)
        target.truncate()
        async for block in response.aiter_bytes():
            target.write(block)
            if whole is not None and target.tell() > whole:
                raise Truncated(f"an output has more than the {whole} bytes that were promised")


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag


def _length(response: httpx.Response) -> int | None:
    with contextlib.suppress(ValueError):
        return int(response.headers.get("content-length", ""))
    return None


def _sized(into: Path, whole: int | None, path: str) -> None:
    found = into.stat().st_size
    if whole is not None and found != whole:
        name = path.partition("?")[0].rpartition("/")[2]
        raise Truncated(f"{name} has {found} bytes in place of {whole}")
