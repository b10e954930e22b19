"""Outboxes for tests: impatient ones, and waiting for what they do."""

from __future__ import annotations

import asyncio
import contextlib

from receiver import SECRET

from handler.inputs.address import AddressPolicy
from handler.outbox.outbox import Outbox
from handler.outbox.records import Letter, Terms
from handler.outbox.sending import Sender

TERMS = Terms(
    timeout_s=0.5,
    first_wait_s=0.02,
    longest_wait_s=0.1,
    refusal_wait_s=0.02,
    longest_retry_after_s=2,
    hurried_wait_s=0.02,
    watch_s=0.05,
)


@contextlib.asynccontextmanager
async def opened(folder, secret=SECRET, terms=TERMS, allow="127.0.0.0/8", **options):
    sender = Sender(AddressPolicy(allow), secret=secret, timeout_s=terms.timeout_s)
    outbox = Outbox(folder, sender, secret=secret, terms=terms, **options)
    await outbox.open()
    try:
        yield outbox
    finally:
        await outbox.close()


def letter(url, message_id="job-1", **changes) -> Letter:
    facts = {"url": url, "body": b'{"a": 1}', "message_id": message_id, "kind": "prompt.complete"}
    return Letter(**{**facts, **changes})


def left_files(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


async def when(condition, limit_s=10.0):
    """Wait until something is so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


async def gone(outbox, limit_s=10.0):
    """Wait until nothing is pending, at the outbox's own pace."""
    await when(lambda: not outbox.pending(), limit_s)


async def tried(outbox, count=1):
    """Wait until the oldest pending letter was tried so often."""
    await when(lambda: outbox.pending()[0].tries >= count)


async def died(outbox, count=1):
    """Wait until there are so many dead ones."""
    await when(lambda: len(outbox._room.dead) >= count)
