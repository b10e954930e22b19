"""Modal's memory snapshots: what is done before one is taken, and after it is restored.

    before_snapshot ─► (Modal freezes the container, and thaws copies of it) ─► after_restore

Modal runs both hooks, every call and the exit hook in one event loop (`UserCodeEventLoop` of its
runtime), which stands still in between: tasks that one hook began go on in the next. So the hooks
must be `async`, and nothing here may be used from another loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from adapters.modal_restores import Restores
from adapters.worker import begin, raise_open_files
from handler.engine.boot import open_site
from handler.engine.snapshot import SnapshotNode, unfit
from handler.errors import HandlerError
from handler.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from handler.engine.boot import Site
    from handler.revival import Seen
    from handler.service import Handler
    from handler.settings import Settings

log = logging.getLogger("comfyfn.modal")
Mode = Literal["off", "cpu", "gpu"]
RESTORE_LIMIT_S = 30.0
"""For waking, connecting and the self-test; CUDA alone takes one or two."""
STOP_LIMIT_S = 15.0


class Stages:
    """A worker's life around a snapshot.

    Args:
        settings: as read before the snapshot.
        mode: `off`: boots after the restore. `cpu`: boots with CUDA hidden before the snapshot,
            which the engine's node shows it afterwards. `gpu`: boots and warms up before it.
        ledger_file: counts restores that failed; on a Volume, so that it outlives the container.
            Commit and reload of the Volume are the caller's: reload before `after_restore`,
            commit after it, also when it raises.
        image: names what was deployed; failures of another image do not count.
        reread: gives the settings anew after the restore, since Modal updates the environment;
            None where they stay as they were.
        limit_s: for the way from the restore to a passed self-test.
    """

    def __init__(
        self,
        settings: Settings,
        mode: Mode,
        ledger_file: Path | None = None,
        *,
        image: str = "",
        reread: Callable[[], Settings] | None = None,
        limit_s: float = RESTORE_LIMIT_S,
    ) -> None:
        self._settings = settings
        self._mode = mode
        self._restores = Restores(ledger_file, f"{image or VERSION} {mode}")
        self._reread = reread
        self._limit_s = limit_s
        self._handler: Handler | None = None
        self._site: Site | None = None
        self._seen: Seen | None = None
        self._why_not: str | None = None

    def __repr__(self) -> str:
        return f"<Stages {self._mode} {self._handler}>"

    @property
    def handler(self) -> Handler:
        """The worker; there from `after_restore` on."""
        assert self._handler is not None, "after_restore was not called, or failed"
        return self._handler

    async def before_snapshot(self) -> None:
        """Boot what the snapshot is to hold; call it in `@modal.enter(snap=True)`.

        Without a snapshot (an app that is not deployed) `after_restore` simply follows. What
        cannot boot without a GPU is left for then.

        Raises:
            BootFailed: mode `gpu`: the engine cannot be started.
        """
        if self._mode == "off":
            return
        if self._restores.given_up:
            self._why_not = self._restores.said
            log.warning("no snapshot of the engine: %s", self._why_not)
            return
        try:
            await self._boot(snapshot=True)
        except HandlerError as fault:
            await self.stop()
            if self._mode == "gpu":
                raise
            self._why_not = fault.message
        if self._handler is None:
            log.warning("the engine boots after the snapshot: %s", self._why_not)
            return
        self._seen = await self._handler.revival.seen()
        await self._handler.revival.pause()

    async def after_restore(self) -> Handler:
        """Make the worker ready for calls; call it in `@modal.enter(snap=False)`.

        Raises:
            BootFailed: not even a plain boot makes it ready.
        """
        begun = time.monotonic()
        if self._reread is not None:
            self._settings = self._reread()
        if self._handler is not None and self._restores.given_up:
            self._why_not = self._restores.said
            await self._drop()
        if self._handler is not None:
            try:
                told = await self._restore(self._handler)
            except Exception as fault:  # noqa: BLE001 - whatever it is, a plain boot mends it
                self._why_not = self._fault(fault)
                await self._drop()
            else:
                self._restores.passed()
                self._tell(begun, restored=True, **told)
                return self._handler
        await self._plain()
        self._tell(begun, restored=False)
        return self.handler

    async def stop(self) -> None:
        """End everything; call it in `@modal.exit()`. More than once is fine."""
        handler, self._handler = self._handler, None
        site, self._site = self._site, None
        try:
            if handler is not None:
                await handler.stop()
        finally:
            if site is not None:
                site.close()

    # -- the stages -------------------------------------------------------------------------------

    async def _boot(self, *, snapshot: bool) -> None:
        raise_open_files()
        self._site = site = open_site(self._settings, embedded_allowed=False)
        warm = True
        if snapshot:
            why_not = unfit(self._settings, site.kind)
            if why_not is None:
                site.node = SnapshotNode(hides_gpu=self._mode == "cpu")
                warm = not site.node.hides_gpu
            elif self._mode == "cpu" and site.kind != "embedded":  # that one touches no GPU
                self._why_not = why_not
                site.close()
                return
        self._handler = begin(site).handler()
        await self._handler.start(warm=warm)

    async def _restore(self, handler: Handler) -> dict[str, Any]:
        """Wake, connect, test and warm up; give what is worth telling of it."""
        assert self._seen is not None
        async with asyncio.timeout(self._limit_s):
            await handler.revive(self._settings if self._reread is not None else None)
            told = await handler.revival.wake()
            gpu = "device" in told and self._mode == "cpu" and not self._settings.allow_cpu
            await handler.revival.self_test(self._seen, gpu=gpu)
        await handler.revival.warm_up()
        return {"device": told.get("name") or told.get("device"), "wake_s": told.get("seconds")}

    def _fault(self, fault: Exception) -> str:
        if isinstance(fault, TimeoutError):
            why = f"it was not ready within {self._limit_s:g} s"
        else:
            why = _words(fault) if isinstance(fault, HandlerError) else repr(fault)
        failures = self._restores.failed(why)
        log.error("the restored engine is given up (%d in a row): %s", failures, why)
        if not isinstance(fault, HandlerError | TimeoutError):
            log.error("a fault of ours in it", exc_info=fault)
        return why

    async def _drop(self) -> None:
        """End what was restored, soon: it may hang."""
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.stop()
        except Exception:  # a plain boot comes next, which tells if something is in its way
            log.exception("what was restored cannot be ended well")

    async def _plain(self) -> None:
        try:
            await self._boot(snapshot=False)
        except BaseException:
            await self._drop()
            raise

    def _tell(self, begun: float, *, restored: bool, **told: Any) -> None:
        report = {
            "mode": self._mode,
            "restored": restored,
            "failures": self._restores.failures,
            "seconds": round(time.monotonic() - begun, 3),
            **{name: value for name, value in told.items() if value is not None},
        }
        if not restored and self._why_not:
            report["error"] = self._why_not
        self.handler.revival.note(report)
        log.info("after the restore: %s", report)


def _words(fault: HandlerError) -> str:
    """Give what it says, with the engine's own words where it has answered."""
    details = fault.details if isinstance(fault.details, dict) else {}
    return ": ".join(filter(None, (fault.message, str(details.get("body") or "")[:300])))
