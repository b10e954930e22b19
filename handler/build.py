"""Settings -> a wired Handler. The only place that knows which part is made of what."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine.base import EngineState
from handler.engine.comfyui import ComfyEngine
from handler.errors import InternalFault
from handler.identity import Identity
from handler.inputs.address import AddressPolicy
from handler.instance_events import InstanceEvents
from handler.ledger import Ledger
from handler.manifest.build import make_start
from handler.manifest.names import named_models
from handler.manifest.start import manifest_of, places_of
from handler.metrics import Metrics
from handler.models.library import ModelLibrary
from handler.models.store import Store
from handler.pipeline.stages import Parts
from handler.pipeline.storage import UploadProviders
from handler.service import Handler
from handler.tracing.tracer import make_tracer
from handler.transfer.download import Downloader
from handler.transfer.operator import (
    caller_policy,
    caller_sources,
    media_limits,
    media_sources,
    operator_sources,
)
from handler.transfer.records import Limits
from handler.transfer.threads import Threads
from handler.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.engine.base import Engine
    from handler.engine.boot import Site
    from handler.engine.process import EngineProcess
    from handler.manifest.records import Manifest
    from handler.outbox.outbox import Outbox
    from handler.outbox.records import Delivery
    from handler.outbox.sending import Sender
    from handler.outbox.system_events import SystemEvents
    from handler.settings import Settings
    from handler.state.place import State
    from handler.transfer.records import MakeRoom
    from handler.transfer.sources import Sources

log = logging.getLogger("comfyfn.build")


def build_handler(
    site: Site, process: EngineProcess | None = None, manifest: Manifest | None = None
) -> Handler:
    """Wire a handler for a site; call it inside a running event loop.

    Args:
        site: from `handler.engine.boot.open_site`.
        process: the engine's process where it was launched already, to boot while imports run.
        manifest: what `handler.manifest.start.manifest_of` gives; read here where it is None.

    Raises:
        SettingsError: credentials are set that cannot be sent, or a manifest that has faults.
    """
    settings = site.settings
    manifest = manifest or manifest_of(site)
    threads = Threads(96)  # each connection of the three downloaders holds one, and some are asked
    callers = Limits(
        total_s=settings.download_timeout_s,
        max_bytes=round(settings.max_model_gb * (1 << 30)) or None,
    )
    operators = Limits(total_s=settings.download_timeout_s)
    metrics = Metrics()
    budget = round(settings.cache_gb * (1 << 30))
    engine = ComfyEngine(site, process)
    events = build_events(site, engine)
    store = Store(
        cache_folder(settings),
        budget=budget,
        metrics=metrics,
        on_done=events.downloaded,
        on_removed=events.deleted,
    )

    def fetcher(
        sources: Sources, limits: Limits, make_room: MakeRoom | None = store.make_room
    ) -> Downloader:
        counting = sources.counting(metrics)
        return Downloader(
            sources,
            threads=threads,
            limits=limits,
            make_room=make_room,
            on_done=events.downloaded,
            count=counting,
        )

    # Apart from the models, whose downloads may hold all connections for hours.
    media = fetcher(media_sources(settings, threads), media_limits(settings), None)
    downloader = fetcher(caller_sources(settings, threads), callers)
    operator = fetcher(operator_sources(settings, threads), operators)
    store.attach(downloader, operator)
    try:
        store.open()
    except InternalFault as fault:  # who needs no models by URL is served all the same
        log.warning("models fetched by URL cannot be kept: %s", fault)
    start = make_start(manifest, site, operator, store) if manifest is not None else None
    named = named_models(manifest, places_of(site)) if manifest is not None else {}
    parts = Parts(
        settings=settings,
        engine=engine,
        media=media,
        downloader=downloader,
        operator=operator,
        models=ModelLibrary(store, engine, named, operator),
        scratch=site.scratch,
        providers=UploadProviders(settings, on_stored=events.uploaded),
        identity=Identity(settings.instance_id) if settings.instance_id else Identity(),
        metrics=metrics,
        events=events,
    )
    return Handler(
        parts,
        start,
        ledger=build_ledger(settings, parts.identity),
        webhooks=build_webhooks(settings, metrics, site.scratch),
        tracer=make_tracer(settings, parts.identity.instance),
    )


def cache_folder(settings: Settings) -> Path:
    """Give the store's folder: as set, else that of a comfyui-api which ran here, else ours."""
    caches = Path.home() / ".cache"
    theirs = caches / "comfyui-api"
    return settings.cache_dir or (theirs if theirs.is_dir() else caches / "comfyfn")


def build_ledger(settings: Settings, identity: Identity) -> Ledger:
    """Wire what is remembered of jobs beyond the process."""

    async def opened() -> State:
        # On first use: an engine that boots in no time is not waited for by what it needs not.
        from handler.delivery.s3_client import S3Place, new_client
        from handler.state.place import open_state

        region = settings.aws_region or settings.aws_default_region
        place = S3Place(region, settings.aws_endpoint or None)
        # Jobs wait for it, and so does the end of the process.
        client = partial(new_client, place, None, connect_s=5, read_s=15)
        return await open_state(settings, client, time.time())

    return Ledger(opened, shared=bool(settings.state_url), instance=identity.instance)


def build_webhooks(settings: Settings, metrics: Metrics, scratch: Path) -> Webhooks:
    """Wire what tells callers of their jobs' ends; its outbox opens on first need."""

    async def opened() -> Outbox:
        outbox = build_outbox(settings, tried)
        await outbox.open()
        return outbox

    def tried(delivery: Delivery) -> None:
        metrics.webhook(delivery)
        webhooks.tried(delivery)

    # Named without its package, which loads cryptography.
    webhooks = Webhooks(opened, scratch, folder=settings.state_folder / "outbox")
    return webhooks


def build_outbox(settings: Settings, listener: Callable[[Delivery], None] | None = None) -> Outbox:
    """Wire the outbox for callers' webhooks.

    Args:
        listener: told what came of every try.
    """
    from handler.outbox.outbox import Outbox
    from handler.outbox.records import Terms, outbox_folder

    return Outbox(
        outbox_folder(settings),
        _sender(settings, caller_policy(settings)),
        secret=settings.webhook_secret,
        terms=Terms.of(settings),
        listener=listener,
    )


def build_events(site: Site, engine: Engine) -> InstanceEvents:
    """Wire what tells the operator of the engine's messages and of files, if that is wanted."""
    if not site.settings.system_webhook_url:
        return InstanceEvents()
    events = InstanceEvents(
        build_system_events(site.settings),
        ready=lambda: engine.state is EngineState.READY,
        scratch=site.scratch,
    )
    engine.listen(events.take)
    return events


def build_system_events(settings: Settings) -> SystemEvents:
    """Wire what tells the operator of this instance's events."""
    from handler.outbox.system_events import SystemEvents

    return SystemEvents(
        settings.system_webhook_url,
        settings.system_webhook_events,
        _sender(settings, AddressPolicy("*")),
        metadata=dict(settings.system_metadata),
    )


def _sender(settings: Settings, policy: AddressPolicy) -> Sender:
    from handler.outbox.sending import Sender

    return Sender(
        policy,
        secret=settings.webhook_secret,
        timeout_s=settings.webhook_timeout_s,
    )
