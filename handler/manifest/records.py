"""What a manifest says, once it is read: frozen, checked, with the line of each entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from handler.manifest.git_refs import GitSource

Pattern = Literal["gateway", "queue"]
Image = Literal["runtime", "devel"]


NIGHTLY = "nightly"
"""As a version: what its repository has now, as ComfyUI-Manager and comfy-cli call it."""


@dataclass(frozen=True, slots=True)
class RegistryName:
    """A pack by its name in ComfyUI's registry; `version` None for the newest, or `NIGHTLY`."""

    id: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePack:
    """A pack of custom nodes.

    Attributes:
        name: of its folder below `custom_nodes`.
        optional: whether a failure is only a warning.
        replace: set a folder of that name aside when it is not the pack's own clone.
        skip_install_script: leave the pack's `install.py` alone.
    """

    name: str
    source: GitSource | RegistryName
    optional: bool = False
    replace: bool = False
    skip_install_script: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of weights.

    Attributes:
        urls: where it may be fetched, best first.
        local_path: below COMFY_HOME, or absolute in a model root; None where `folder` says it.
        folder: a folder of ComfyUI's models, as `checkpoints`.
        filename: its name in `folder`, maybe with subfolders.
        sha256: lower-case hexadecimal.
        size: in bytes.
        name: what graphs may call it; `aliases` are more such names.
    """

    urls: tuple[str, ...] = field(repr=False)  # a token may stand in their query
    local_path: str | None = None
    folder: str | None = None
    filename: str | None = None
    sha256: str | None = None
    size: int | None = None
    name: str | None = None
    aliases: tuple[str, ...] = ()
    licence: str | None = None
    line: int = 0

    @property
    def label(self) -> str:
        """What people call it."""
        leaf = (self.local_path or self.filename or self.urls[0]).rstrip("/").rpartition("/")[2]
        return self.name or leaf


@dataclass(frozen=True, slots=True)
class ComfyUIPin:
    """Which ComfyUI is wanted: exactly one of both.

    Attributes:
        version: as `0.3.64`.
        commit: 7 to 40 hexadecimal digits.
    """

    version: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Requires:
    """What a machine needs for this. All for people and for `doctor`, nothing is enforced.

    Attributes:
        vram_gb, ram_gb: the least.
        gpu: a model that does well, `RTX 4090`.
        typical_s: seconds that one image or video takes, from and to.
        pattern: `gateway` where an answer comes within the gateway's limit, else `queue`.
        image: the base image, `devel` has the whole CUDA toolkit.
    """

    vram_gb: float | None = None
    ram_gb: float | None = None
    gpu: str | None = None
    typical_s: tuple[float, float] | None = None
    pattern: Pattern | None = None
    image: Image | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of it.

    Attributes:
        source: what people call it: its path, or `MANIFEST_JSON`.
        digest: sha256 of its text.
        path: its file, None for a text from the environment.
        catalogue: by name; aliases stand in the entries.
        preload: names of files to read ahead.
    """

    source: str = "the manifest"
    digest: str = ""
    path: Path | None = None
    comfyui: ComfyUIPin | None = None
    apt: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    custom_nodes: tuple[NodePack, ...] = ()
    before_start: tuple[ModelFile, ...] = ()
    after_start: tuple[ModelFile, ...] = ()
    catalogue: Mapping[str, ModelFile] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    requires: Requires | None = None

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """Every file that is brought without being asked for."""
        return self.before_start + self.after_start
