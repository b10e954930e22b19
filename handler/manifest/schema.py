"""A manifest's text in, `Manifest` out; every fault is told at once, with its line."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, cast

from handler.manifest import git_refs
from handler.manifest.document import Unreadable, parse_document
from handler.manifest.faults import Fault, ManifestInvalid
from handler.manifest.model_schema import read_catalogue, read_models
from handler.manifest.places import check_folder
from handler.manifest.reader import Reader
from handler.manifest.records import (
    ComfyUIPin,
    Image,
    Manifest,
    ModelFile,
    NodePack,
    Pattern,
    RegistryName,
    Requires,
)

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 8 << 20
KEYS = (
    "apt", "pip", "custom_nodes", "models", "comfyui", "catalogue", "preload", "requires",
)  # fmt: skip
MOMENTS = ("before_start", "after_start")
PACK_KEYS = (
    "url", "name", "ref", "version", "folder", "optional", "replace", "skip_install_script",
)  # fmt: skip
REQUIRES_KEYS = ("vram_gb", "ram_gb", "gpu", "typical_s", "pattern", "image")
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?")
_REGISTRY = re.compile(
    r"(?P<id>[A-Za-z0-9_][A-Za-z0-9._-]*)(@(?P<version>[A-Za-z0-9][A-Za-z0-9.+-]*))?"
)
_VERSION = re.compile(r"v?(?P<version>\d+(\.\d+){1,3})")
_COMMIT = re.compile(r"(?=.*[0-9])[0-9a-f]{7,40}")
_RANGE = re.compile(r"(?P<low>\d+(\.\d+)?)\s*(-|to)\s*(?P<high>\d+(\.\d+)?)")
_PIP_OPTIONS = (
    "-e ", "--editable", "-r ", "--requirement", "-c ", "--constraint", "-i ", "--index-url",
    "--extra-index-url", "-f ", "--find-links", "--no-index", "--no-binary", "--only-binary",
)  # fmt: skip


def read_manifest(
    path: Path | None, text: str = "", *, allow_local_git: bool = False
) -> Manifest | None:
    """Read the manifest the operator named; None where there is none.

    Args:
        path: `MANIFEST`, ending in .json, .yml or .yaml.
        text: `MANIFEST_JSON`, which wins.

    Raises:
        ManifestInvalid: with every fault.
    """
    if text.strip():
        return parse_manifest(text, is_json=True, source="MANIFEST_JSON", local=allow_local_git)
    if path is None:
        return None
    if path.suffix.lower() not in (".json", ".yml", ".yaml"):
        raise ManifestInvalid(str(path), [Fault(0, "", "must end in .json, .yml or .yaml")])
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ManifestInvalid(str(path), [Fault(0, "", "is too large for a manifest")])
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ManifestInvalid(str(path), [Fault(0, "", problem)]) from error
    is_json = path.suffix.lower() == ".json"
    return parse_manifest(text, is_json=is_json, source=str(path), path=path, local=allow_local_git)


def parse_manifest(
    text: str,
    *,
    is_json: bool = False,
    source: str = "the manifest",
    path: Path | None = None,
    local: bool = False,
) -> Manifest:
    """Read a manifest's text.

    Args:
        local: allow node packs from folders of this machine.

    Raises:
        ManifestInvalid: with every fault.
    """
    try:
        tree = parse_document(text, is_json=is_json)
    except Unreadable as error:
        raise ManifestInvalid(source, error.faults) from error
    faults: list[Fault] = []
    top = Reader(tree, "", faults).keys(*KEYS)
    models = top["models"].keys(*MOMENTS) if "models" in top else {}
    manifest = Manifest(
        source=source,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        path=path,
        comfyui=_comfyui(top.get("comfyui")),
        apt=top["apt"].texts(_apt) if "apt" in top else (),
        pip=top["pip"].texts(_pip) if "pip" in top else (),
        custom_nodes=_packs(top.get("custom_nodes"), local),
        before_start=read_models(models.get("before_start")),
        after_start=read_models(models.get("after_start")),
        catalogue=read_catalogue(top.get("catalogue")),
        preload=top["preload"].texts(check_folder) if "preload" in top else (),
        requires=_requires(top.get("requires")),
    )
    _find_clashes(manifest, faults)
    if faults:
        raise ManifestInvalid(source, faults)
    return manifest


def _apt(text: str) -> str:
    if not _APT.fullmatch(text):
        raise ValueError("is no name of a Debian package")
    return text


def _pip(text: str) -> str:
    if text.startswith("-"):
        if not text.startswith(_PIP_OPTIONS):
            raise ValueError("is no option that a requirements file can have")
        return text
    from packaging.requirements import InvalidRequirement, Requirement

    if text.startswith((".", "/")) or "://" in text.split(" ", maxsplit=1)[0]:
        return text  # a folder, a wheel, or an address: uv tells what is wrong with it
    try:
        Requirement(text.split(" #", maxsplit=1)[0].split(" --", maxsplit=1)[0])
    except InvalidRequirement as error:
        raise ValueError(f"is no requirement: {str(error).splitlines()[0]}") from None
    return text


def _comfyui(reader: Reader | None) -> ComfyUIPin | None:
    return reader.parsed(_pin) if reader is not None else None


def _pin(text: str) -> ComfyUIPin:
    version = _VERSION.fullmatch(text)
    if version is not None:
        return ComfyUIPin(version=version["version"])
    if _COMMIT.fullmatch(text):
        return ComfyUIPin(commit=text)
    raise ValueError("is neither a version, as 0.3.64, nor a commit of 7 to 40 digits")


def _packs(reader: Reader | None, local: bool) -> tuple[NodePack, ...]:
    found = []
    for item in reader.items() if reader is not None else []:
        if isinstance(item.entry.value, dict):
            pack = _pack_by_keys(item, local)
        else:
            source = item.parsed(partial(_source, local=local))
            pack = _named_pack(source, item.line) if source is not None else None
        if pack is not None:
            found.append(pack)
    return tuple(found)


def _named_pack(
    source: git_refs.GitSource | RegistryName, line: int, name: str | None = None
) -> NodePack:
    own = source.id if isinstance(source, RegistryName) else source.name
    return NodePack(name=name or own, source=source, line=line)


def _pack_by_keys(item: Reader, local: bool) -> NodePack | None:
    keys = item.keys(*PACK_KEYS)
    if ("url" in keys) == ("name" in keys):
        item.fault("must have either `url` or `name`")
        return None
    for key, of in (("ref", "url"), ("version", "name")):
        if key in keys and of not in keys:
            keys[key].fault(f"goes with `{of}`")
    ref = keys["ref"].text() if "ref" in keys else None
    version = keys["version"].text() if "version" in keys else None
    folder = keys["folder"].parsed(_leaf) if "folder" in keys else None
    flags = {
        key: keys[key].flag()
        for key in ("optional", "replace", "skip_install_script")
        if key in keys
    }
    source: git_refs.GitSource | RegistryName | None
    if "url" in keys:
        source = keys["url"].parsed(partial(git_refs.parse, ref=ref, allow_local=local))
    else:
        source = keys["name"].parsed(partial(_registry, version=version))
    if source is None:
        return None
    own = source.id if isinstance(source, RegistryName) else source.name
    return NodePack(name=folder or own, source=source, line=item.line, **flags)


def _source(text: str, *, local: bool) -> git_refs.GitSource | RegistryName:
    if git_refs.is_address(text) or text.startswith("-"):
        return git_refs.parse(text, allow_local=local)
    return _registry(text)


def _registry(text: str, version: str | None = None) -> RegistryName:
    found = _REGISTRY.fullmatch(text)
    if found is None:
        raise ValueError("is neither an address of a git repository nor a name in the registry")
    if version is not None and found["version"] is not None:
        raise ValueError("names a version already, and `version` another")
    wanted = version or found["version"]
    return RegistryName(found["id"], None if wanted == "latest" else wanted)


def _leaf(text: str) -> str:
    if "/" in text or "\\" in text or text.startswith((".", "-")):
        raise ValueError("must be the name of one folder")
    return text


def _requires(reader: Reader | None) -> Requires | None:
    if reader is None:
        return None
    keys = reader.keys(*REQUIRES_KEYS)
    pattern = keys["pattern"].choice("gateway", "queue") if "pattern" in keys else None
    image = keys["image"].choice("runtime", "devel") if "image" in keys else None
    return Requires(
        vram_gb=keys["vram_gb"].number() if "vram_gb" in keys else None,
        ram_gb=keys["ram_gb"].number() if "ram_gb" in keys else None,
        gpu=keys["gpu"].text() if "gpu" in keys else None,
        typical_s=_range(keys["typical_s"]) if "typical_s" in keys else None,
        pattern=cast("Pattern | None", pattern),
        image=cast("Image | None", image),
    )


def _range(reader: Reader) -> tuple[float, float] | None:
    """Read seconds: `5`, `5-15` or `[5, 15]`."""
    if isinstance(reader.entry.value, list):
        numbers = [item.number() for item in reader.items()]
    elif isinstance(reader.entry.value, str):
        found = _RANGE.fullmatch(reader.entry.value.strip())
        numbers = [float(found["low"]), float(found["high"])] if found is not None else []
    else:
        only = reader.number()
        if only is None:
            return None
        numbers = [only, only]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None or numbers[0] > numbers[1]:
        reader.fault("must be seconds: a number, or a range as 5-15")
        return None
    return float(numbers[0]), float(numbers[1])


def _find_clashes(manifest: Manifest, faults: list[Fault]) -> None:
    """Find entries that are right for themselves and cannot be together."""
    folders: dict[str, NodePack] = {}
    for pack in manifest.custom_nodes:
        first = folders.setdefault(pack.name.casefold(), pack)
        if first is not pack:
            message = f"{pack.name} is given on line {first.line} already, for the same folder"
            faults.append(Fault(pack.line, "custom_nodes", message))
    places: dict[tuple[str | None, ...], ModelFile] = {}
    for model in manifest.models:
        key = (model.local_path, model.folder, model.filename)
        known = places.setdefault(key, model)
        if known is not model and (known.urls, known.sha256) != (model.urls, model.sha256):
            message = f"{model.label} is given on line {known.line} already, from elsewhere"
            faults.append(Fault(model.line, "models", message))
    names: dict[str, ModelFile] = {}
    for model in (*manifest.catalogue.values(), *manifest.models):
        for name in (model.name, *model.aliases):
            other = names.setdefault(name.casefold(), model) if name else model
            same = (other.urls, other.folder, other.filename) == (
                model.urls, model.folder, model.filename
            )  # fmt: skip
            if other is not model and not same:
                message = f"the name {name!r} means the file of line {other.line} already"
                faults.append(Fault(model.line, "catalogue", message))
