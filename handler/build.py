"""Settings -> a wired Handler. The only place that knows which part is made of what."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine.comfyui import ComfyEngine
from handler.errors import InternalFault
from handler.inputs.address import AddressPolicy
from handler.manifest.build import make_start
from handler.manifest.names import named_models
from handler.manifest.start import manifest_of, places_of
from handler.models.library import ModelLibrary
from handler.models.store import Store
from handler.pipeline.stages import Parts
from handler.service import Handler
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.engine.boot import Site
    from handler.engine.process import EngineProcess
    from handler.manifest.records import Manifest
    from handler.outbox.outbox import Outbox
    from handler.outbox.records import Delivery
    from handler.outbox.sending import Sender
    from handler.outbox.system_events import SystemEvents
    from handler.settings import Settings

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
    store = Store(cache_folder(settings), budget=round(settings.cache_gb * (1 << 30)))
    room = store.make_room
    # Apart from the models, whose downloads may hold all connections for hours.
    media = Downloader(
        media_sources(settings, threads), threads=threads, limits=media_limits(settings)
    )
    downloader = Downloader(
        caller_sources(settings, threads), threads=threads, limits=callers, make_room=room
    )
    operator = Downloader(
        operator_sources(settings, threads), threads=threads, limits=operators, make_room=room
    )
    store.attach(downloader, operator)
    try:
        store.open()
    except InternalFault as fault:  # who needs no models by URL is served all the same
        log.warning("models fetched by URL cannot be kept: %s", fault)
    engine = ComfyEngine(site, process)
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
    )
    return Handler(parts, start)


def cache_folder(settings: Settings) -> Path:
    """Give the store's folder: as set, else that of a comfyui-api which ran here, else ours."""
    caches = Path.home() / ".cache"
    theirs = caches / "comfyui-api"
    return settings.cache_dir or (theirs if theirs.is_dir() else caches / "comfyfn")


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
