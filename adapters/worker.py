"""A handler and the engine under it, for whoever calls us: what every adapter begins with.

The engine's process is launched before the rest of us is loaded: it boots while Python imports.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.engine.boot import Site, launch, open_site
from handler.errors import HandlerError

if TYPE_CHECKING:
    from handler.engine.process import EngineProcess
    from handler.manifest.records import Manifest
    from handler.service import Handler
    from handler.settings import Settings

MOST_FILES = 65_536


@dataclass(slots=True)
class Begun:
    """An engine on its way up, and what its handler is made of.

    Attributes:
        process: None where the engine is launched later, or by nobody.
    """

    site: Site
    process: EngineProcess | None = None
    manifest: Manifest | None = None

    def handler(self) -> Handler:
        """Wire the handler; call it in the event loop that it is to live in.

        Raises:
            SettingsError: credentials are set that cannot be sent.
        """
        from handler.build import build_handler

        return build_handler(self.site, self.process, self.manifest)


def begin_worker(settings: Settings, *, embedded_allowed: bool = False) -> Begun:
    """Choose the engine and launch it, for platforms that need no port of ours.

    Close `site` at the end, after the handler was stopped.

    Args:
        embedded_allowed: as `handler.engine.command.engine_kind` has it.

    Raises:
        BootFailed: there is no engine to start here.
        SettingsError: the manifest has faults, or cannot be carried out here.
    """
    raise_open_files()
    site = open_site(settings, embedded_allowed=embedded_allowed)
    try:
        return begin(site)
    except BaseException:
        site.close()
        raise


def begin(site: Site) -> Begun:
    """Launch the engine of a site, unless its manifest is to be carried out before.

    Raises:
        SettingsError: the manifest has faults, or cannot be carried out here.
    """
    manifest = _manifest(site)
    if _waits(manifest):
        site.begin_read_ahead()
        return Begun(site, None, manifest)
    process: EngineProcess | None = None
    if site.kind != "attached":
        # Told again, with its retries, by the handler.
        with contextlib.suppress(HandlerError, OSError):
            process = launch(site)
    return Begun(site, process, manifest)


def _manifest(site: Site) -> Manifest | None:
    if site.settings.manifest is None and not site.settings.manifest_json:
        return None  # then nothing of it is loaded before the engine is launched
    from handler.manifest.start import manifest_of

    return manifest_of(site)


def _waits(manifest: Manifest | None) -> bool:
    """Tell whether the engine is to be launched later, when what it needs is installed."""
    if manifest is None:
        return False
    from handler.manifest.start import holds_launch

    return holds_launch(manifest)


def raise_open_files() -> None:
    """Allow ourselves as many open files and connections as we may have: 1024 are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
