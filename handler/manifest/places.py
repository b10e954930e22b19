"""Where a model of the manifest lies on this machine. Pure: looks at no disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from handler.manifest.faults import Fault, InstallFailed, ManifestInvalid

if TYPE_CHECKING:
    from handler.manifest.records import Manifest, ModelFile


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that manifests speak of.

    Attributes:
        home: COMFY_HOME; None where no ComfyUI is installed by us.
        models: where `folder` is meant.
        roots: further folders with models, as network volumes.
    """

    models: Path
    home: Path | None = None
    roots: tuple[Path, ...] = ()

    @property
    def custom_nodes(self) -> Path:
        """Where node packs go.

        Raises:
            InstallFailed: there is no COMFY_HOME.
        """
        return self.comfy_home / "custom_nodes"

    @property
    def comfy_home(self) -> Path:
        """COMFY_HOME.

        Raises:
            InstallFailed: it is not set.
        """
        if self.home is None:
            raise InstallFailed(
                "the manifest installs into ComfyUI, and COMFY_HOME is not set",
                hint="set COMFY_HOME to ComfyUI's folder",
            )
        return self.home

    def of(self, model: ModelFile) -> Path:
        """Give the file's path.

        Raises:
            InstallFailed: it would lie outside of COMFY_HOME and every model root.
        """
        if model.local_path is None:
            return self.models / (model.folder or "") / (model.filename or "")
        given = Path(model.local_path)
        path = given if given.is_absolute() else self._base() / given
        path = Path(os.path.normpath(path))
        known = dict.fromkeys((self.home, self.models, *self.roots))
        allowed = [root for root in known if root is not None]
        if any(path.is_relative_to(root) and path != root for root in allowed):
            return path
        raise InstallFailed(
            f"local_path {model.local_path!r} is outside of COMFY_HOME and the model roots",
            hint=f"allowed: {', '.join(map(str, allowed))}",
        )

    def check(self, manifest: Manifest) -> None:
        """Make sure that every model of a manifest has a place.

        Raises:
            ManifestInvalid: with every one that has none, and its line.
        """
        faults = []
        for model in manifest.models:
            try:
                self.of(model)
            except InstallFailed as error:
                faults.append(Fault(model.line, "models", f"{error.message} ({error.hint})"))
        if faults:
            raise ManifestInvalid(manifest.source, faults)

    def _base(self) -> Path:
        # Without a COMFY_HOME `models/checkpoints/x` still has a meaning.
        return self.home if self.home is not None else self.models.parent


def check_local_path(text: str) -> str:
    """Let a path through that cannot leave the folder it is relative to.

    Raises:
        ValueError: it can.
    """
    if "\\" in text or ".." in PurePosixPath(text).parts or text.startswith("~"):
        raise ValueError("must be a path below COMFY_HOME, without ..")
    return text


def check_folder(text: str) -> str:
    """Let a name with subfolders through: relative, and without `..`.

    Raises:
        ValueError: it is something else.
    """
    parts = PurePosixPath(text).parts
    if not parts or "\\" in text or ".." in parts or text.startswith(("/", "~")):
        raise ValueError("must be a relative name without ..")
    return text.rstrip("/")
