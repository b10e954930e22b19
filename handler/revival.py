"""Around a freeze: the process is stopped, perhaps copied, and goes on later or somewhere else.

Connections are dead by then and do not know it, randomness comes twice, and so does a name. What
holds a connection lets go of it here; most open another one on their next use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.errors import EngineRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.endings import Endings
    from handler.graph.object_info import ObjectInfo
    from handler.ledger import Ledger
    from handler.pipeline.stages import Parts
    from handler.settings import Settings
    from handler.startup import Startup

log = logging.getLogger("comfyfn.service")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine was before a freeze.

    Attributes:
        classes: how many nodes it knew.
        device: the GPU's name; None without one.
    """

    classes: int
    device: str | None


class Revival:
    """Lets go before a freeze, begins anew after it, and finds out whether all is well.

    Args:
        idle: whether no job is in hand, nor about to be.
    """

    def __init__(
        self,
        parts: Parts,
        startup: Startup,
        ledger: Ledger,
        endings: Endings,
        idle: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._startup = startup
        self._ledger = ledger
        self._endings = endings
        self._idle = idle
        self._one = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Revival of {self._engine!r}>"

    async def pause(self) -> None:
        """Hang up everywhere and close every file of STATE_DIR; `revive` must follow.

        Call it while no job is in hand.
        """
        async with self._one:
            await self._let_go(None)
            await self._endings.pause()
            await self._ledger.pause()
            await self._engine.pause()

    async def revive(self, settings: Settings | None = None) -> None:
        """Begin anew; see `Handler.revive`."""
        async with self._one:
            await self._revive(settings)

    async def _revive(self, settings: Settings | None) -> None:
        begun = time.monotonic()
        reseed()
        await self._let_go(settings)
        name = (settings or self._parts.settings).instance_id
        idle = self._idle()  # no job can come in between this and the new names: nothing waits
        if idle:
            self._parts.identity.renew(name)
        self._ledger.renew(self._parts.identity.instance)
        if idle:
            await self._endings.renew()
        await self._engine.revive()
        log.info("revived as %s in %.3f s", self._ledger.instance, time.monotonic() - begun)

    async def _let_go(self, settings: Settings | None) -> None:
        parts = self._parts
        for downloader in (parts.media, parts.downloader, parts.operator):
            downloader.renew(settings)
        parts.providers.renew(settings)
        if self._idle():
            await parts.providers.hang_up()
        hub = sys.modules.get("huggingface_hub")
        if hub is not None and hasattr(hub, "close_session"):
            hub.close_session()

    async def wake(self) -> dict[str, Any]:
        """Show the GPU to an engine that booted without; see `Engine.wake`."""
        return await self._engine.wake()

    async def warm_up(self) -> None:
        """Run the warmup that `Handler.start` was told to leave.

        Raises:
            BootFailed: it failed.
        """
        await self._startup.release_warmup()

    def note(self, told: dict[str, Any]) -> None:
        """Have the boot report tell of the snapshot."""
        self._startup.note("snapshot", told)

    async def seen(self) -> Seen:
        """Tell what the engine is now, for a comparison after the freeze."""
        device = self._engine.device
        classes = len(list((await self._engine.object_info()).classes))
        return Seen(classes, device.name if device is not None else None)

    async def self_test(self, before: Seen, *, gpu: bool) -> None:
        """Find out whether the engine is what it was, and computes.

        Args:
            gpu: there must be one.

        Raises:
            HandlerError: it is not, or does not.
        """
        info = await self._engine.object_info()
        now = await self.seen()
        if now.classes < before.classes:
            raise EngineRefused(f"{now.classes} nodes are known, before it were {before.classes}")
        if now.device is None and (gpu or before.device is not None):
            raise EngineRefused(f"no GPU is seen; before it was {before.device or 'hidden'}")
        if before.device not in {None, now.device}:
            log.warning("the snapshot was made on %s, this is %s", before.device, now.device)
        payload = tiny_graph(info)
        if payload is not None:
            await self._startup.try_out(payload)
        log.debug("self-test passed: %s", now)


def reseed() -> None:
    """Begin with new randomness, also that of TLS."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "ssl" in sys.modules:
        # The system's own is never copied; OpenSSL's is in our memory.
        sys.modules["ssl"].RAND_add(os.urandom(64), 64.0)


def tiny_graph(info: ObjectInfo) -> dict[str, Any] | None:
    """Give a payload that computes a few pixels, on the GPU where it can; None without the nodes.

    Its colour is random: what ran before the freeze is not run again, but cached.
    """
    known = set(info.classes)
    if not {"EmptyImage", "PreviewImage"} <= known:
        return None
    colour = secrets.randbelow(1 << 24)
    size = {"width": 16, "height": 16, "batch_size": 1, "color": colour}
    graph: dict[str, Any] = {"1": {"class_type": "EmptyImage", "inputs": size}}
    if "ImageBlur" in known:
        blur = {"image": ["1", 0], "blur_radius": 1, "sigma": 1.0}
        graph["2"] = {"class_type": "ImageBlur", "inputs": blur}
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": [str(len(graph)), 0]}}
    return {"prompt": graph}
