"""Wires an installation together from what the operator set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from handler.manifest.apt import Apt
from handler.manifest.git import Git
from handler.manifest.installer import Tools
from handler.manifest.packages import Packages
from handler.manifest.registry import HttpRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.manifest.installer import Downloads
    from handler.manifest.places import Places
    from handler.manifest.records import Manifest
    from handler.manifest.registry import RegistryResolver


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
