"""The embedded engine as one object: its parts wired, started and stopped."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from local_server.engine.executor import Executor
from local_server.engine.folders import Folders
from local_server.engine.model_paths import registry
from local_server.engine.nodes import catalog
from local_server.engine.progress import Interruption
from local_server.engine.queue import PromptQueue
from local_server.engine.sockets import Sockets
from local_server.engine.worker import Worker

if TYPE_CHECKING:
    from local_server.engine.config import EngineConfig

logger = logging.getLogger("comfyfn.embedded")

STOP_TIMEOUT_S = 5.0


class Engine:
    """A small CPU engine that speaks ComfyUI's protocol.

    Attributes:
        port: the port it listens on, once started.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.port = config.port
        self.folders = Folders(
            config.input_dir,
            config.output_dir,
            config.temp_dir,
            config.models_dir,
            registry(config.models_dir, config.extra_models, test_faults=config.test_faults),
        )
        self.nodes = catalog(test_faults=config.test_faults)
        self.interruption = Interruption()
        self.queue = PromptQueue(changed=self._tell_status)
        self.sockets = Sockets(self.exec_info, self.features())
        self.executor = Executor(config, self.folders, self.nodes, self.sockets, self.interruption)
        self._numbers = itertools.count()
        self._worker = Worker(self.queue, self.executor, self.sockets)
        self._runner: web.AppRunner | None = None
        self._publisher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Engine(port {self.port}, {self.queue!r}, {self.sockets!r})"

    def _tell_status(self) -> None:
        # Not bound when the queue is made: it and the sockets need each other.
        self.sockets.post_status()

    def take_number(self) -> int:
        """Give the next prompt's place in the queue; refused prompts take one, too."""
        return next(self._numbers)

    def exec_info(self) -> dict[str, Any]:
        """Tell how many prompts are left, as `GET /prompt` does."""
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def features(self) -> dict[str, Any]:
        """Tell what the server can do, as `GET /features` does."""
        return {
            "supports_preview_metadata": True,
            "max_upload_size": self.config.max_upload_bytes,
        }

    async def start(self) -> None:
        """Prepare the folders and listen.

        Raises:
            OSError: a folder cannot be made, or the port is taken.
        """
        from local_server.engine.server import build_app

        shutil.rmtree(self.folders.temp, ignore_errors=True)
        for folder in (self.folders.input, self.folders.output, self.folders.temp):
            folder.mkdir(parents=True, exist_ok=True)
        self._publisher = asyncio.create_task(self.sockets.publish())
        self._worker.start()
        self._runner = web.AppRunner(build_app(self), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        for address in self.config.listen:
            site = web.TCPSite(self._runner, address, self.port)
            await site.start()
            if self.port == 0:
                self.port = self._runner.addresses[0][1]
        logger.info("Starting server")

    async def stop(self) -> None:
        """Stop listening and end the worker; only for engines inside another program."""
        await asyncio.to_thread(self._worker.stop, STOP_TIMEOUT_S)
        if self._runner is not None:
            self.sockets.abort_all()
            await self._runner.cleanup()
        if self._publisher is not None:
            self._publisher.cancel()
            with suppress(asyncio.CancelledError):
                await self._publisher
