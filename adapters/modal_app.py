"""ComfyUI on Modal: `modal deploy adapters/modal_app.py`.

What can be set stands in one table, `adapters/modal_knobs.py`, each knob with its variable:

    COMFYFN_GPU=H100 COMFYFN_MANIFEST=my.yaml modal deploy adapters/modal_app.py

    modal run adapters/modal_app.py --models            fill the Volume with the manifest's models
    modal run adapters/modal_app.py --graph file.json   run a graph once, and save its outputs
    modal serve adapters/modal_app.py                   while designing: a URL of its own

From Python: `modal.Cls.from_name("comfyfn", "Worker")().run.remote({"prompt": graph})`.

The module is imported on the user's machine and in the container: nothing heavy loads with it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator  # noqa: TC003  # Modal reads the annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal

from adapters.modal_image import build_image
from adapters.modal_knobs import GRACE_S, Knobs, image_id
from handler.settings import SettingsError

if TYPE_CHECKING:
    from adapters.modal_snapshot import Stages
    from adapters.modal_volumes import Watch
    from handler.service import Handler

log = logging.getLogger("comfyfn.modal")


def _read() -> tuple[Knobs, modal.Image]:
    """Read the knobs, and describe the image; what is wrong there is told without a traceback."""
    try:
        knobs = Knobs.read()
        return knobs, build_image(knobs)
    except SettingsError as error:
        if not modal.is_local():  # Modal is told as of any other fault
            raise
        raise SystemExit(f"comfyfn: {error}") from error


KNOBS, image = _read()
SNAPSHOT = KNOBS.snapshot
LEDGER = "snapshots.json"

app = modal.App(KNOBS.app)
model_volume = modal.Volume.from_name(KNOBS.models_volume, create_if_missing=True)
state_volume = modal.Volume.from_name(KNOBS.state_volume, create_if_missing=True)
secrets = [modal.Secret.from_name(name) for name in KNOBS.secrets]
environment = KNOBS.environment()


@app.cls(
    image=image,
    env=environment,
    secrets=secrets,
    volumes={KNOBS.models_folder: model_volume, KNOBS.state_folder: state_volume},
    gpu=list(KNOBS.gpu) if len(KNOBS.gpu) > 1 else next(iter(KNOBS.gpu), None),
    cpu=KNOBS.cpu,
    memory=KNOBS.memory,
    region=list(KNOBS.region) or None,
    min_containers=KNOBS.min_containers,
    max_containers=KNOBS.max_containers,
    buffer_containers=KNOBS.buffer_containers,
    scaledown_window=KNOBS.scaledown_window,
    timeout=KNOBS.call_limit_s,
    startup_timeout=KNOBS.startup_timeout,
    enable_memory_snapshot=SNAPSHOT != "off",
    experimental_options={"enable_gpu_snapshot": True} if SNAPSHOT == "gpu" else None,
)
@modal.concurrent(max_inputs=KNOBS.max_inputs, target_inputs=KNOBS.target_inputs)
class Worker:
    """One container: a ComfyUI, and what turns calls into its jobs."""

    stages: Stages
    handler: Handler
    watch: Watch

    # Without snapshots Modal knows one kind of hook; `restored` does both then.
    @modal.enter(snap=SNAPSHOT != "off")
    async def begin(self) -> None:
        """Boot what the snapshot is to hold."""
        from adapters.logs import configure_logging
        from adapters.modal_snapshot import Stages
        from handler.settings import Settings

        settings = Settings.from_env()
        configure_logging(settings)
        self.stages = Stages(
            settings,
            KNOBS.snapshot,
            Path(KNOBS.state_folder, LEDGER),
            image=image_id(),
            reread=Settings.from_env,
        )
        await self.stages.before_snapshot()

    @modal.enter()
    async def restored(self) -> None:
        """Finish on the GPU: what was frozen is made new, tested, and warmed up."""
        from adapters.modal_volumes import Watch, commit, reload

        await reload(model_volume)
        await reload(state_volume)
        try:
            self.handler = handler = await self.stages.after_restore()
        finally:  # the ledger of restores, for the next container
            await commit(state_volume)
        self.watch = Watch(
            model_volume, lambda: not (handler.waiting() or handler.health().running)
        )
        self.watch.begin()

    @modal.exit()
    async def leave(self) -> None:
        """End the engine; jobs in hand have ended by now, or have `GRACE_S` seconds.

        Whatever the hooks before it came to: one that failed may have left an engine.
        """
        try:
            if hasattr(self, "watch"):
                await self.watch.end()
            if hasattr(self, "handler"):
                await self.handler.drain(GRACE_S)
        finally:
            if hasattr(self, "stages"):
                await self.stages.stop()

    @modal.method()
    async def run(self, payload: Any, key: str | None = None) -> dict[str, Any]:
        """Do a job; its answer, or its error as a dict with `error`, `code` and `statusCode`.

        Args:
            payload: `{"prompt": graph, ...}`, `{"workflow": name, "input": {...}}`, or as
                worker-comfyui takes it.
            key: an idempotency key: whoever sends it again gets the same run's result.
        """
        from adapters import modal_jobs
        from adapters.modal_calls import cancelled_by_caller

        own = modal.current_input_id()
        how = modal_jobs.submission(own, key)
        return await modal_jobs.run(self.handler, payload, how, lambda: cancelled_by_caller(own))

    @modal.method()
    async def stream(
        self, payload: Any, key: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Do a job and tell of it, `{"type", "data"}` by event; the answer or the error is last."""
        import contextlib

        from adapters import modal_jobs
        from adapters.modal_calls import cancelled_by_caller

        own = modal.current_input_id()
        how = modal_jobs.submission(own, key)
        items = modal_jobs.stream(self.handler, payload, how, lambda: cancelled_by_caller(own))
        async with contextlib.aclosing(items):
            async for item in items:
                yield item

    @modal.asgi_app(label=KNOBS.label or None, requires_proxy_auth=KNOBS.proxy_auth)
    def web(self) -> Any:
        """The whole HTTP API; jobs that nobody waits for become calls of `run`."""
        from functools import partial

        from adapters.asgi import make_app
        from adapters.modal_calls import ModalCalls
        from adapters.modal_jobs import NAME
        from adapters.modal_routes import call_routes
        from adapters.serving import Platform
        from handler.settings import Settings

        settings = Settings.from_env()
        calls = ModalCalls(self.run)
        routes = partial(call_routes, calls=calls, most_bytes=settings.max_body_mb << 20)
        platform = Platform(name=NAME, routes=routes)
        return make_app(self.handler, settings, platform=platform)


@app.function(
    image=image,
    env=environment,
    secrets=secrets,
    volumes={KNOBS.models_folder: model_volume},
    cpu=2.0,
    timeout=KNOBS.fill_timeout,
)
async def fill() -> AsyncGenerator[dict[str, Any], None]:
    """Fetch the manifest's models into the Volume, and tell how far it is."""
    from adapters.modal_fill import fill as bring
    from adapters.modal_volumes import commit
    from handler.settings import Settings

    async for item in bring(Settings.from_env()):
        if item["type"] == "there":  # one that is whole is kept, whatever becomes of the others
            await commit(model_volume)
        yield item


@app.local_entrypoint()
def main(graph: str = "", models: bool = False, out: str = "output") -> None:
    """Fill the Volume, run a graph, or both.

    Args:
        graph: a payload or a graph as ComfyUI exports it (API), a JSON file.
        models: fetch the manifest's models first.
        out: folder for the outputs.
    """
    from adapters import modal_local

    if not graph and not models:
        raise SystemExit("say what: --graph FILE runs a graph, --models fills the Volume")
    if models and modal_local.follow_fill(fill.remote_gen()):
        raise SystemExit(1)
    if graph:
        payload = modal_local.read_payload(Path(graph))
        if modal_local.follow(Worker().stream.remote_gen(payload), Path(out)):
            raise SystemExit(1)
