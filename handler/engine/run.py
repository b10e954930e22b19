"""One prompt in the engine's hands: what is known of it, and its one end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from handler.engine.events import End, EngineEvent, Failed, Gone, Interrupted, Started, Succeeded
from handler.engine.execution import Execution

if TYPE_CHECKING:
    from handler.engine.base import EnginePrompt, OnEvent
    from handler.errors import HandlerError

END_TYPES = (Succeeded, Failed, Interrupted, Gone)


class Run:
    """One prompt.

    Attributes:
        post: hands the prompt in; it goes on where its caller stops to wait.
        sent: the engine may have the prompt; False where nothing listened.
        submitted: the engine has answered that it took the prompt.
        began: the engine was seen to run it.
        unwanted: it was cancelled or given up: once handed in, it is to be taken back.
        misses: looks at the queue in a row that got no answer.
        last_activity: when the engine last said something of it, monotonic seconds.
    """

    def __init__(self, prompt: EnginePrompt, on_event: OnEvent) -> None:
        self.prompt = prompt
        self.execution = Execution(prompt.prompt_id, prompt.graph.keys())
        self.on_event = on_event
        self.done: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.post: asyncio.Task[dict[str, Any]] | None = None
        self.sent = True
        self.submitted = False
        self.began = False
        self.unwanted = False
        self.misses = 0
        self.last_activity = time.monotonic()

    def __repr__(self) -> str:
        state = "ended" if self.done.done() else "began" if self.began else "waits"
        return f"<Run {self.prompt.prompt_id} {state}>"

    @property
    def in_post(self) -> bool:
        """Whether the prompt is on its way, so that the engine's queue says nothing of it yet."""
        return self.post is not None and not self.post.done()

    @property
    def gone(self) -> bool:
        """Whether the engine knows nothing of the prompt, and nothing of it was seen."""
        over = self.done.done() and self.done.exception() is None
        return over and not self.began and isinstance(self.done.result(), Gone)

    def take(self, events: list[EngineEvent]) -> None:
        """Hand events on; the end settles the run."""
        for event in events:
            if isinstance(event, Started) and self.began:
                continue
            if not self.began and not isinstance(event, Gone):
                self.began = True
                if not isinstance(event, Started):  # known from history alone
                    self.on_event(Started(int(time.time() * 1000)))
            self.on_event(event)
            if isinstance(event, END_TYPES) and not self.done.done():
                self.done.set_result(event)

    def fail(self, error: HandlerError) -> None:
        """Settle the run with an error."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # read once: a run nobody waits for any more is no loose end

    async def settled(self, wait_s: float) -> bool:
        """Wait for the end and tell whether it came in time."""
        done, _ = await asyncio.wait((self.done,), timeout=wait_s)
        return bool(done)
