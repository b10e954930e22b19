"""Brings ComfyUI itself to the version or commit that the manifest names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handler.manifest.faults import InstallFailed
from handler.manifest.git_refs import choose, parse

if TYPE_CHECKING:
    from pathlib import Path

    from handler.manifest.git import Git
    from handler.manifest.records import ComfyUIPin

REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
_VERSION = re.compile(r"""__version__\s*=\s*["'](?P<version>[^"']+)["']""")


@dataclass(frozen=True, slots=True)
class ComfyUIState:
    """Which ComfyUI lies in a folder.

    Attributes:
        commit: None where it is no clone.
        version: None where it does not say.
        changed: whether it was brought there just now.
    """

    commit: str | None
    version: str | None
    changed: bool = False


async def look(home: Path, git: Git) -> ComfyUIState:
    """Tell which ComfyUI is there. Takes milliseconds."""
    clone = await git.look(home)
    return ComfyUIState(clone.commit if clone is not None else None, version_of(home))


def version_of(home: Path) -> str | None:
    """Read the version from ComfyUI's own file."""
    try:
        found = _VERSION.search((home / "comfyui_version.py").read_text())
    except OSError:
        return None
    return found["version"] if found is not None else None


async def ensure(
    pin: ComfyUIPin, home: Path, git: Git, *, url: str = REPOSITORY, allow_local: bool = False
) -> ComfyUIState:
    """Make sure that ComfyUI is the one asked for; clone it where there is none.

    Raises:
        InstallFailed: it is another one and no clone, has changes of its own, or cannot be had.
    """
    state = await look(home, git)
    if pin.version is not None and state.version == pin.version:
        return state
    if pin.commit is not None and (state.commit or "").startswith(pin.commit):
        return state
    wanted = pin.version or pin.commit
    clone = await git.look(home)
    if clone is None and home.is_dir() and any(home.iterdir()):
        raise InstallFailed(
            f"ComfyUI in {home} is {state.version or 'of an unknown version'}, "
            f"the manifest wants {wanted}, and it is no git clone that could be moved",
            hint="use an image with that version, or take `comfyui` out of the manifest",
        )
    if clone is not None and clone.changed:
        changed = ", ".join(clone.changed[:3])
        raise InstallFailed(
            f"ComfyUI in {home} has changed files ({changed}): it cannot be moved to {wanted}"
        )
    ref = f"v{pin.version}" if pin.version is not None else pin.commit
    source = parse(clone.origin if clone is not None else url, ref=ref, allow_local=allow_local)
    found = choose(source, await git.advertised(source))
    if found is None:
        raise InstallFailed(f"ComfyUI at {source.url} has no {ref}")
    home.mkdir(parents=True, exist_ok=True)
    commit = await git.obtain(home, source, found)
    return ComfyUIState(commit, version_of(home), changed=True)
