"""Looks at the machine in the lock's own words, and tells how it differs from a lock."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from handler.manifest import comfyui, commands
from handler.manifest.apt import package_name
from handler.manifest.faults import InstallFailed
from handler.manifest.lock import (
    Lock,
    LockedComfyUI,
    LockedModel,
    LockedPack,
    model_key,
    model_path,
)
from handler.manifest.registry import read_mark

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from handler.manifest.installer import Tools
    from handler.manifest.places import Places
    from handler.manifest.records import Manifest
    from handler.manifest.requirements import Installed

_HASHED_AT_ONCE = 4
_CODE = (".py", ".js", ".json", ".toml", ".txt", ".yaml")


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that is not as the lock has it.

    Attributes:
        kind: `comfyui`, `node pack`, `python`, `package`, `debian package` or `model`.
        expected, found: None for what should not, or does not, exist.
    """

    kind: str
    name: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.expected is None:
            return f"{self.kind} {self.name} is not in the lock: {self.found}"
        if self.found is None:
            return f"{self.kind} {self.name} is missing: {self.expected}"
        return f"{self.kind} {self.name} is {self.found}, not {self.expected}"


async def take_lock(manifest: Manifest, tools: Tools) -> Lock:
    """Look at the machine, and give its lock.

    Raises:
        InstallFailed: something of the manifest is not there, or has changed files.
    """
    now = await observe(manifest, tools)
    lacking = [
        f"node pack {pack.name}"
        for pack in manifest.custom_nodes
        if not pack.optional and pack.name not in now.custom_nodes
    ]
    for model in manifest.models:
        key = model_key(tools.places.of(model), tools.places)
        if key not in now.models:
            lacking.append(f"model {key}")
    lacking += [
        f"Debian package {package_name(text)}"
        for text in manifest.apt
        if package_name(text) not in now.apt
    ]
    if lacking:
        raise InstallFailed(
            f"the manifest is not installed whole: {', '.join(lacking)}",
            hint="run `comfyfn manifest apply` first",
        )
    if now.changed:
        told = "; ".join(f"{name} ({', '.join(files[:3])})" for name, files in now.changed.items())
        raise InstallFailed(f"a lock cannot hold files that were changed by hand: {told}")
    return now


async def observe(
    manifest: Manifest, tools: Tools, *, hashes: bool = True, lock: Lock | None = None
) -> Lock:
    """Look at everything a lock speaks of. What is not there is left out.

    Args:
        hashes: read the models whole; else their sizes alone are looked at.
        lock: what it names is looked at as well, whatever the manifest names by now.

    Raises:
        InstallFailed: the interpreter, or git, cannot be run.
    """
    installed, packs, models, apt = await asyncio.gather(
        tools.packages.installed(),
        _packs(tools),
        _models(_model_paths(manifest, tools, lock), hashes),
        _apt(manifest, tools, lock),
    )
    nodes, changed = packs
    comfy = None
    if tools.places.home is not None and tools.places.home.is_dir():
        state = await comfyui.look(tools.places.home, tools.git)
        clone = await tools.git.look(tools.places.home)
        if clone is not None and clone.changed:
            changed["ComfyUI"] = clone.changed
        if state.commit or state.version:
            comfy = LockedComfyUI(commit=state.commit, version=state.version)
    return Lock(
        manifest=manifest.digest,
        comfyui=comfy,
        custom_nodes=nodes,
        python=installed.environment.get("python_full_version", ""),
        pip=_pip(installed),
        apt=apt,
        models=models,
        changed=changed,
    )


def compare(lock: Lock, now: Lock) -> list[Difference]:
    """Tell every difference, in order. Pure."""
    found: list[Difference] = []
    if lock.python != now.python:
        found.append(Difference("python", "version", lock.python, now.python))
    if lock.comfyui is not None:
        found += _changed("comfyui", {"ComfyUI": lock.comfyui}, {"ComfyUI": now.comfyui})
    found += _changed("node pack", lock.custom_nodes, now.custom_nodes)
    found += [
        Difference("comfyui" if name == "ComfyUI" else "node pack", name, "as committed", told)
        for name, files in now.changed.items()
        if (told := f"changed by hand ({', '.join(files[:5])})")
    ]
    found += _changed("package", lock.pip, now.pip)
    found += _changed("debian package", lock.apt, now.apt)
    known = {
        name: replace(model, sha256="") if not now.models[name].sha256 else model
        for name, model in lock.models.items()
        if name in now.models
    }
    found += _changed("model", {**lock.models, **known}, now.models)
    return sorted(found, key=lambda one: (one.kind, one.name, one.found or ""))


def named_otherwise(manifest: Manifest, lock: Lock, places: Places) -> list[str]:
    """Tell which models the manifest names in place of those of the lock, for people. Pure."""
    now = {model_key(places.of(model), places) for model in manifest.models}
    fresh, lines = sorted(now - lock.models.keys()), []
    for key in sorted(lock.models.keys() - now):
        folder = key.rpartition("/")[0]
        other = next((name for name in fresh if name.rpartition("/")[0] == folder), None)
        if other is None:
            lines.append(f"the manifest no longer names model {key}")
        else:
            fresh.remove(other)
            lines.append(f"the manifest now names model {other} in place of {key}")
    return lines + [f"the manifest now names model {key} as well" for key in fresh]


def _changed(kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(kind, name, _told(before.get(name)), _told(now.get(name)))
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _told(value: Any) -> str | None:
    if isinstance(value, LockedModel):
        return f"{value.size} bytes, sha256 {value.sha256[:16] or 'not looked at'}"
    if isinstance(value, LockedPack):
        if value.registry is not None:
            return f"{value.registry} {value.version}, code {(value.content or '')[:16]}"
        return f"{value.url} at {value.commit}" if value.commit else "of unknown origin"
    if isinstance(value, LockedComfyUI):
        return f"{value.version or 'of unknown version'} at {value.commit or 'no commit'}"
    return None if value is None else str(value)


def _pip(installed: Installed) -> dict[str, str]:
    found = {}
    for name, version in sorted(installed.versions.items()):
        direct = installed.direct_urls.get(name)
        found[name] = _address(direct) or version if direct else version
    return found


def _address(direct: Mapping[str, Any]) -> str | None:
    """Give the address to install a package from again; None where it was a folder."""
    url = commands.without_secrets(str(direct.get("url", "")))
    vcs = direct.get("vcs_info")
    if vcs:
        return f"@ {vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}"
    if "dir_info" in direct or not url:
        return None
    return f"@ {url}"


async def _packs(tools: Tools) -> tuple[dict[str, LockedPack], dict[str, tuple[str, ...]]]:
    root = tools.places.custom_nodes if tools.places.home is not None else None
    if root is None or not root.is_dir():
        return {}, {}
    folders = sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.endswith(".disabled") and entry.name != "__pycache__"
    )
    clones = await asyncio.gather(*(tools.git.look(folder) for folder in folders))
    found: dict[str, LockedPack] = {}
    changed: dict[str, tuple[str, ...]] = {}
    for folder, clone in zip(folders, clones, strict=True):
        if clone is not None:
            url = commands.without_secrets(clone.origin)
            found[folder.name] = LockedPack(url=url, commit=clone.commit)
            if clone.changed:
                changed[folder.name] = clone.changed
            continue
        mark = read_mark(folder)
        content = await asyncio.to_thread(_code_digest, folder)
        if mark is not None:
            found[folder.name] = LockedPack(registry=mark.id, version=mark.version, content=content)
        else:
            found[folder.name] = LockedPack(content=content)
    return found, changed


def _code_digest(folder: Path) -> str:
    """Hash the names and contents of a pack's code; what it writes for itself does not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in below.parts)
        if path.suffix not in _CODE or hidden or not path.is_file():
            continue
        digest.update(f"{below.as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _model_paths(manifest: Manifest, tools: Tools, lock: Lock | None) -> dict[str, Path]:
    places = tools.places
    paths = {key: model_path(key, places) for key in (lock.models if lock is not None else ())}
    return paths | {model_key(path, places): path for path in map(places.of, manifest.models)}


async def _models(paths: Mapping[str, Path], hashes: bool) -> dict[str, LockedModel]:
    slots = asyncio.Semaphore(_HASHED_AT_ONCE)

    async def look(path: Path) -> LockedModel | None:
        async with slots:
            return await asyncio.to_thread(_look_at_model, path, hashes)

    looked = await asyncio.gather(*(look(path) for path in paths.values()))
    return {key: model for key, model in zip(paths, looked, strict=True) if model is not None}


def _look_at_model(path: Path, hashes: bool) -> LockedModel | None:
    try:
        size = path.stat().st_size
        if not hashes:
            return LockedModel("", size)
        with path.open("rb") as file:
            return LockedModel(hashlib.file_digest(file, "sha256").hexdigest(), size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InstallFailed(f"the model {path} cannot be read: {error.strerror}") from error


async def _apt(manifest: Manifest, tools: Tools, lock: Lock | None) -> dict[str, str]:
    names = dict.fromkeys(package_name(text) for text in manifest.apt)
    names |= dict.fromkeys(lock.apt if lock is not None else ())
    if not names:
        return {}
    versions = await tools.apt.versions()
    return {name: versions[name] for name in names if name in versions}
