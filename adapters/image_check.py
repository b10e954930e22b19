"""Boots ComfyUI once while an image is built: a node pack that does not load fails the build.

`python -m adapters.image_check`, with the settings that the worker will have. No GPU is needed, no
model is fetched and no graph is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from dataclasses import replace

from adapters.logs import configure_logging
from adapters.worker import Begun
from handler.engine.boot import open_site
from handler.errors import HandlerError
from handler.manifest.schema import read_manifest
from handler.settings import Settings, SettingsError

log = logging.getLogger("comfyfn.build")


async def check(settings: Settings) -> None:
    """Boot the engine with the packs of the manifest, and end it.

    Raises:
        HandlerError: it does not boot, or a pack that is not optional does not load.
        SettingsError: the manifest has faults.
    """
    manifest = read_manifest(
        settings.manifest, settings.manifest_json, allow_local_git=settings.manifest_local_git
    )
    if manifest is not None:
        manifest = replace(manifest, before_start=(), after_start=(), catalogue={}, preload=())
    bare = replace(
        settings,
        allow_cpu=True,
        manifest=None,
        manifest_json="",
        read_ahead=False,
        warmup_file=None,
        warmup_url="",
        warmup_json="",
    )
    with contextlib.closing(open_site(bare, embedded_allowed=False)) as site:
        handler = Begun(site, None, manifest).handler()
        try:
            await handler.start()
        finally:
            await handler.stop()


def main() -> int:
    """Check, and tell what is wrong; the status is 1 then."""
    try:
        settings = Settings.from_env()
        configure_logging(settings)
        asyncio.run(check(settings))
    except HandlerError as error:
        for line in error.log_tail or []:
            log.error("engine | %s", line)
        log.error("%s", error.message)
        if error.hint:
            log.error("hint: %s", error.hint)
        return 1
    except SettingsError as error:
        log.error("%s", error)
        return 1
    log.info("ComfyUI boots, with every node pack")
    return 0


if __name__ == "__main__":
    sys.exit(main())
