"""Webhooks of the request API: a job's end is posted as RunPod posts it, three times at most."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from handler.errors import HandlerError
from handler.outbox.records import Opened, Posted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.outbox.sending import Sender

log = logging.getLogger("comfyfn.runpod")
TRIES = 3
AGAIN_S = 10.0


class Hooks:
    """Posts ends, each in a task of its own.

    Args:
        sender: keeps to the server's address policy.
        again_s: between two tries.
    """

    def __init__(self, sender: Sender, *, again_s: float = AGAIN_S) -> None:
        self._sender = sender
        self._again_s = again_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Hooks {len(self._tasks)} under way>"

    async def check(self, url: str) -> None:
        """Find out now whether a URL may be posted to.

        Raises:
            InvalidPayload: it is no http(s) URL, or its host does not exist.
            UrlNotAllowed: the address policy refuses it.
        """
        try:
            await self._sender.check(url)
        except HandlerError as fault:
            fault.location = fault.location or "webhook"
            raise

    def tell(self, job_id: str, end: Callable[[], Awaitable[tuple[str, bytes]]]) -> None:
        """Post an end.

        Args:
            end: gives the URL and the body.
        """
        task = asyncio.create_task(self._post(job_id, end), name=f"webhook-{job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, grace_s: float = 2.0) -> None:
        """Give those under way a moment, and end them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._sender.close()

    async def _post(self, job_id: str, end: Callable[[], Awaitable[tuple[str, bytes]]]) -> None:
        try:
            url, body = await end()
        except OSError as fault:
            log.warning("job %s: its webhook is not sent: %s", job_id, fault)
            return
        letter = _letter(job_id, len(body))
        opened = Opened(url, {}, None, body, 0, len(body))
        for left in reversed(range(TRIES)):
            answer = await self._sender.send(letter, opened)
            await answer.close()
            if answer.reply.status is not None and 200 <= answer.reply.status < 300:
                log.info("job %s: its webhook is told", job_id)
                return
            log.warning("job %s: its webhook: %s, %d tries left", job_id, answer.reply.said, left)
            if answer.reply.hopeless:
                return
            if left:
                await asyncio.sleep(self._again_s)


def _letter(job_id: str, size: int) -> Posted:
    now = time.time()
    return Posted(
        id=job_id,
        message_id=job_id,
        kind="runpod",
        order_key="",
        to="",
        signed=False,
        bytes=size,
        created=now,
        since=now,
    )
