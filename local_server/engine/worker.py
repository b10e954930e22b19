"""The thread that takes prompts from the queue and runs them, so that HTTP stays responsive."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from local_server.engine.queue import Ending

if TYPE_CHECKING:
    from local_server.engine.executor import Executor
    from local_server.engine.queue import Item, PromptQueue
    from local_server.engine.sockets import Sockets

logger = logging.getLogger("comfyfn.embedded")


class Worker:
    """Runs the queue's prompts one by one on a thread of its own."""

    def __init__(self, queue: PromptQueue, executor: Executor, sockets: Sockets) -> None:
        self._queue = queue
        self._executor = executor
        self._sockets = sockets
        # A daemon: the process must end at once when it is told to, like ComfyUI.
        self._thread = threading.Thread(target=self._work, name="prompts", daemon=True)

    def start(self) -> None:
        """Begin to run prompts."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the node that runs; a node that takes longer than the timeout is left alone."""
        self._queue.close()
        self._executor.interruption.ask()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._queue.closed:
            item = self._queue.take()
            if self._queue.take_flags().free_memory:
                self._executor.free_memory()
            if item is not None:
                self._run(item)

    def _run(self, item: Item) -> None:
        started = time.perf_counter()
        try:
            ending = self._executor.run(item)
        except Exception:
            # A link of an unknown input to a missing node, say. ComfyUI's worker dies of it.
            logger.exception("the prompt %s cannot be run", item[1])
            ending = Ending({}, {}, succeeded=False, messages=[])
        self._queue.finish(ending)
        client_id = self._sockets.client_id
        if client_id is not None:
            self._sockets.post("executing", {"node": None, "prompt_id": item[1]}, client_id)
        logger.info("Prompt executed in %.2f seconds", time.perf_counter() - started)
