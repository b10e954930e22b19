"""Takes a prompt back from the engine, wherever it is there, and from no other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from handler.errors import EngineRefused, HandlerError, NotFound

if TYPE_CHECKING:
    from handler.engine.client import ComfyClient
    from handler.engine.run import Run

LOOK_AGAIN_S = 0.2


async def take_back(
    client: ComfyClient, prompt_id: str, run: Run | None, *, grace_s: float, deaf_s: float
) -> str | None:
    """Delete a prompt from the queue or interrupt it, until the engine is rid of it.

    Asked again and again: an interrupt that meets the very start of a run is forgotten by ComfyUI,
    and a prompt whose POST is under way is not in the queue yet.

    Args:
        run: what is known of the prompt; None where nothing is.
        grace_s: how long the engine may take while it answers.
        deaf_s: how long it may leave us without an answer.

    Returns:
        None when it is rid of the prompt or the run has ended, else why not, to end a sentence.
    """
    begun = heard = time.monotonic()
    while run is None or not run.done.done():
        in_post = run is not None and run.in_post
        try:
            async with asyncio.timeout_at(_loop_time(min(begun + grace_s, heard + deaf_s))):
                in_hand = await _ask(client, prompt_id)
            heard = time.monotonic()
            if not in_hand and not in_post:
                return None
        except (HandlerError, TimeoutError):
            if time.monotonic() - heard >= deaf_s:
                return f"did not answer for {deaf_s:g} s"
        if time.monotonic() - begun >= grace_s:
            return f"did not let go of it within {grace_s:g} s"
        await asyncio.sleep(LOOK_AGAIN_S)
    return None


async def _ask(client: ComfyClient, prompt_id: str) -> bool:
    """Ask once, and tell whether the engine had the prompt just before."""
    with contextlib.suppress(EngineRefused, NotFound):
        await client.delete_pending([prompt_id])
    queue = await client.queue()
    # Only then: an old ComfyUI does not read the id and would stop whatever runs.
    if prompt_id in queue.running:
        with contextlib.suppress(EngineRefused, NotFound):
            await client.interrupt(prompt_id)
    return prompt_id in queue


def _loop_time(monotonic_s: float) -> float:
    return asyncio.get_running_loop().time() + monotonic_s - time.monotonic()
