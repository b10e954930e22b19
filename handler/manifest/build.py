"""Wires an installation together from what the operator set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine.command import interpreter
from handler.manifest.apt import Apt
from handler.manifest.fetch import ModelFetcher
from handler.manifest.git import Git
from handler.manifest.installer import Installer, Tools
from handler.manifest.lock import lock_path, pin_tools, read_lock
from handler.manifest.model_states import ModelStates
from handler.manifest.packages import Packages
from handler.manifest.places import Places
from handler.manifest.registry import HttpRegistry
from handler.manifest.searched import known_of
from handler.manifest.start import ManifestStart, places_of
from handler.settings import inherited_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.engine.boot import Site
    from handler.manifest.fetch import Shelf
    from handler.manifest.installer import Downloads
    from handler.manifest.records import Manifest
    from handler.manifest.registry import RegistryResolver
    from handler.transfer.download import Downloader


def make_tools(
    manifest: Manifest,
    places: Places,
    python: Path,
    env: Mapping[str, str],
    scratch: Path,
    download: Downloads,
    *,
    registry: RegistryResolver | None = None,
    pip_options: tuple[str, ...] = (),
    allow_local: bool = False,
) -> Tools:
    """Give what an installation works with.

    Args:
        python: ComfyUI's interpreter.
        env: what commands inherit.
        scratch: a folder of ours that lives as long as the installation.
        pip_options: further options for uv.
        allow_local: take git repositories of this machine.
    """
    return Tools(
        places=places,
        apt=Apt(env),
        git=Git(env, allow_local=allow_local),
        registry=registry or HttpRegistry(),
        packages=Packages(python, env, scratch, options=pip_options),
        download=download,
        env=env,
        base=manifest.path.parent.absolute() if manifest.path is not None else Path.cwd(),
        allow_local=allow_local,
    )


def make_start(
    manifest: Manifest, site: Site, downloader: Downloader, shelf: Shelf | None = None
) -> ManifestStart:
    """Give the manifest's way into a worker that starts at a site.

    Args:
        manifest: from `handler.manifest.start.manifest_of`.
        downloader: of the operator's URLs.
        shelf: where models that were fetched before may be.

    Raises:
        InstallFailed: MANIFEST_LOCKED is set, and the lock cannot be read any more.
        OSError: our scratch folder cannot be written.
    """
    scratch, states = site.scratch / "manifest", ModelStates()
    scratch.mkdir(exist_ok=True)
    tools = make_tools(
        manifest,
        # Without folders of the engine's there are packages at most: manifest_of has seen to it.
        places_of(site) or Places(models=scratch),
        interpreter(site.settings),
        inherited_environment(),
        scratch,
        ModelFetcher(downloader, states.listen, shelf),
        allow_local=site.settings.manifest_local_git,
    )
    if site.settings.manifest_locked:
        tools = pin_tools(read_lock(lock_path(manifest)), tools)
    return ManifestStart(
        manifest, Installer(manifest, tools), states, lambda: known_of(site, manifest)
    )
