"""Settings -> a wired Handler. The only place that knows which part is made of what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.engine.comfyui import ComfyEngine
from handler.inputs.address import AddressPolicy
from handler.inputs.http import HttpFetcher
from handler.pipeline.stages import Parts
from handler.service import Handler

if TYPE_CHECKING:
    from handler.engine.boot import Site
    from handler.engine.process import EngineProcess

EVERYTHING = "0.0.0.0/0,::/0,*"


def build_handler(site: Site, process: EngineProcess | None = None) -> Handler:
    """Wire a handler for a site; call it inside a running event loop.

    Args:
        site: from `handler.engine.boot.open_site`.
        process: the engine's process where it was launched already, to boot while imports run.
    """
    settings = site.settings

    def fetcher(allow: str) -> HttpFetcher:
        return HttpFetcher(
            AddressPolicy(allow),
            total_timeout_s=settings.fetch_timeout_s,
            max_bytes=settings.max_input_mb << 20,
        )

    allowed = ",".join(filter(None, (settings.url_allow_hosts, settings.trusted_origins)))
    parts = Parts(
        settings=settings,
        engine=ComfyEngine(site, process),
        fetcher=fetcher(allowed),
        # What the operator names may be anywhere: only callers' URLs are held to the policy.
        operator_fetcher=fetcher(EVERYTHING),
        scratch=site.scratch,
    )
    return Handler(parts)
