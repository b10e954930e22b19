"""The lock: what a manifest came to on a machine, exact to the commit, version and hash.

It lies beside the manifest as `<name>.lock.yaml` (or `.json`), holds no address that may carry a
secret, and an installation from it is the same again, or fails.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from handler.manifest.faults import InstallFailed
from handler.manifest.git_refs import GitSource
from handler.manifest.records import ComfyUIPin, NodePack, RegistryName

if TYPE_CHECKING:
    from handler.manifest.installer import Tools
    from handler.manifest.places import Places
    from handler.manifest.records import Manifest, ModelFile

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedComfyUI:
    """ComfyUI: `commit` None where it is no clone."""

    commit: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPack:
    """A node pack.

    Attributes:
        url, commit: of a clone.
        registry, version, content: of a pack from the registry; `content` is a hash of its code.
    """

    url: str | None = None
    commit: str | None = None
    registry: str | None = None
    version: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class LockedModel:
    """A model's file: `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What is, or was, on a machine.

    Attributes:
        manifest: the sha256 of the manifest's text.
        python: the interpreter's version.
        pip: every package of ComfyUI's interpreter: its version, or ` @ ` and its address.
        apt: the manifest's Debian packages.
        models: by path, relative to COMFY_HOME or else absolute.
        changed: packs (and `ComfyUI`) with files that are not those of their commit.
    """

    manifest: str = ""
    comfyui: LockedComfyUI | None = None
    custom_nodes: Mapping[str, LockedPack] = field(default_factory=dict)
    python: str = ""
    pip: Mapping[str, str] = field(default_factory=dict)
    apt: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, LockedModel] = field(default_factory=dict)
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def lock_path(manifest: Manifest) -> Path:
    """Name the lock's file.

    Raises:
        InstallFailed: the manifest is no file, so that there is no place beside it.
    """
    if manifest.path is None:
        raise InstallFailed(
            f"{manifest.source} is no file, so its lock has no place", hint="name one by --lock"
        )
    return manifest.path.with_suffix(f".lock{manifest.path.suffix}")


def model_key(path: Path, places: Places) -> str:
    """Name a model in the lock."""
    if places.home is not None and path.is_relative_to(places.home):
        return path.relative_to(places.home).as_posix()
    return path.as_posix()


def model_path(key: str, places: Places) -> Path:
    """Give the path of a model by its name in the lock."""
    return Path(key) if places.home is None else places.home / key


def write_lock(lock: Lock, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        InstallFailed: it cannot be written.
    """
    body = _cleaned({"version": FORMAT, **asdict(lock)})
    body.pop("changed", None)
    is_json = path.suffix == ".json"
    text = json.dumps(body, indent=2) + "\n" if is_json else yaml.safe_dump(body, sort_keys=False)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise InstallFailed(f"the lock {path} cannot be written: {error.strerror}") from error


def read_lock(path: Path) -> Lock:
    """Read the file.

    Raises:
        InstallFailed: it is not there, or is no lock that we understand.
    """
    try:
        body = yaml.safe_load(path.read_text())
        if body.get("version") != FORMAT:
            raise InstallFailed(f"the lock {path} has another format", hint="make it anew")
        comfy = body.get("comfyui")
        return Lock(
            manifest=str(body.get("manifest", "")),
            comfyui=LockedComfyUI(**comfy) if comfy else None,
            custom_nodes=_each(body.get("custom_nodes"), LockedPack),
            python=str(body.get("python", "")),
            pip={str(k): str(v) for k, v in (body.get("pip") or {}).items()},
            apt={str(k): str(v) for k, v in (body.get("apt") or {}).items()},
            models=_each(body.get("models"), LockedModel),
        )
    except (OSError, yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        raise InstallFailed(
            f"the lock {path} cannot be read: {error}", hint="make it by `comfyfn manifest lock`"
        ) from error


def freeze(manifest: Manifest, lock: Lock, tools: Tools) -> tuple[Manifest, Tools]:
    """Give the manifest with everything pinned as the lock has it, and tools that keep to it.

    Raises:
        InstallFailed: the lock was made for another manifest.
    """
    return freeze_manifest(manifest, lock, tools.places), pin_tools(lock, tools)


def freeze_manifest(manifest: Manifest, lock: Lock, places: Places) -> Manifest:
    """Give the manifest with everything pinned as the lock has it.

    Raises:
        InstallFailed: the lock was made for another manifest.
    """
    if lock.manifest != manifest.digest:
        raise InstallFailed(
            f"the lock was made for another text of {manifest.source}",
            hint="make it anew by `comfyfn manifest lock`",
        )
    own = {pack.name for pack in manifest.custom_nodes}
    packs = [_frozen_pack(pack, lock) for pack in manifest.custom_nodes]
    packs += [
        _frozen_pack(NodePack(name=name, source=RegistryName(name)), lock)
        for name, locked in lock.custom_nodes.items()
        if name not in own and (locked.url or locked.registry)
    ]
    return replace(
        manifest,
        comfyui=_frozen_comfyui(lock) or manifest.comfyui,
        custom_nodes=tuple(packs),
        before_start=tuple(_frozen_model(m, lock, places) for m in manifest.before_start),
        after_start=tuple(_frozen_model(m, lock, places) for m in manifest.after_start),
        apt=tuple(f"{name}={version}" for name, version in lock.apt.items()),
        pip=tuple(text for text in manifest.pip if text.startswith("-")),
    )


def pin_tools(lock: Lock, tools: Tools) -> Tools:
    """Give tools that install the very packages of a lock."""
    pins = {name: version for name, version in lock.pip.items() if not version.startswith("@")}
    pinned = tuple(
        f"{name} {version}" if version.startswith("@") else f"{name}=={version}"
        for name, version in lock.pip.items()
    )
    return replace(tools, pins=pins, pinned=pinned)


def _frozen_comfyui(lock: Lock) -> ComfyUIPin | None:
    if lock.comfyui is None:
        return None
    if lock.comfyui.commit is not None:
        return ComfyUIPin(commit=lock.comfyui.commit)
    return ComfyUIPin(version=lock.comfyui.version) if lock.comfyui.version else None


def _frozen_pack(pack: NodePack, lock: Lock) -> NodePack:
    locked = lock.custom_nodes.get(pack.name)
    if locked is None:
        if pack.optional:
            return pack
        raise InstallFailed(f"the lock lacks the node pack {pack.name}", hint="make it anew")
    if locked.registry is not None:
        return replace(pack, source=RegistryName(locked.registry, locked.version))
    own = pack.source if isinstance(pack.source, GitSource) else GitSource(locked.url or "")
    return replace(pack, source=replace(own, refs=(locked.commit or "",), kind="commit"))


def _frozen_model(model: ModelFile, lock: Lock, places: Places) -> ModelFile:
    locked = lock.models.get(model_key(places.of(model), places))
    return replace(model, sha256=locked.sha256, size=locked.size) if locked is not None else model


def _each(body: Any, kind: type[Any]) -> dict[str, Any]:
    return {str(name): kind(**fields) for name, fields in (body or {}).items()}


def _cleaned(body: Any) -> Any:
    """Leave out what is None, and make plain lists and dicts of the rest."""
    if isinstance(body, Mapping):
        return {key: _cleaned(value) for key, value in body.items() if value is not None}
    return list(body) if isinstance(body, tuple) else body
