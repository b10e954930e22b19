"""The part of a manifest that speaks of files of weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from handler.manifest.places import check_folder, check_local_path
from handler.manifest.records import ModelFile

if TYPE_CHECKING:
    from handler.manifest.reader import Reader

_SHA256 = re.compile(r"(sha256:)?(?P<digits>[0-9a-fA-F]{64})")
CATALOGUE_KEYS = (
    "url", "urls", "folder", "filename", "sha256", "size", "licence", "license", "aliases",
)  # fmt: skip
MODEL_KEYS = (*CATALOGUE_KEYS, "local_path", "name")
_SCHEMES = ("http", "https", "s3", "gs", "file")


def read_models(reader: Reader | None) -> tuple[ModelFile, ...]:
    """Read `before_start` or `after_start`."""
    found = (_model(item) for item in (reader.items() if reader is not None else []))
    return tuple(model for model in found if model is not None)


def _model(item: Reader) -> ModelFile | None:
    keys = item.keys(*MODEL_KEYS)
    name = keys["name"].parsed(check_folder) if "name" in keys else None
    if "local_path" in keys and ("folder" in keys or "filename" in keys):
        keys["local_path"].fault(
            "cannot go with `folder` or `filename`: one of both says the place"
        )
    if "local_path" not in keys and "folder" not in keys:
        item.fault("must have `local_path`, or `folder`")
        return None
    return _file(item, keys, name)


def _file(item: Reader, keys: dict[str, Reader], name: str | None) -> ModelFile | None:
    urls = _urls(item, keys)
    leaf = _basename(urls[0]) if urls else None
    local_path = keys["local_path"].parsed(check_local_path) if "local_path" in keys else None
    folder = keys["folder"].parsed(check_folder) if "folder" in keys else None
    filename = keys["filename"].parsed(check_folder) if "filename" in keys else None
    if folder is not None and filename is None and urls:
        filename = leaf
        if filename is None and "filename" not in keys:
            item.fault("needs `filename`: the URL ends in no file name")
    if local_path is not None and local_path.endswith("/") and urls:
        if leaf is None:
            keys["local_path"].fault("must end in a file's name: the URL has none")
        local_path += leaf or ""
    size = keys["size"].number(whole=True) if "size" in keys else None
    sha256 = keys["sha256"].parsed(_sha256) if "sha256" in keys else None
    aliases = keys["aliases"].texts(check_folder) if "aliases" in keys else ()
    licence = keys.get("licence") or keys.get("license")
    told = licence.text() if licence is not None else None
    if not urls:
        return None
    return ModelFile(
        urls=urls,
        local_path=local_path,
        folder=folder,
        filename=filename,
        sha256=sha256,
        size=int(size) if size is not None else None,
        name=name,
        aliases=aliases,
        licence=told,
        line=item.line,
    )


def _urls(item: Reader, keys: dict[str, Reader]) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if "url" in keys:
        one = keys["url"].parsed(_url)
        found = (one,) if one is not None else ()
    if "urls" in keys:
        found += keys["urls"].texts(_url)
    if "url" not in keys and "urls" not in keys:
        item.fault("must have `url`")
    return found


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is a malformed URL") from None
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise ValueError("is no URL")
    return text


def _basename(url: str) -> str | None:
    leaf = unquote(urlsplit(url).path).rpartition("/")[2]
    return leaf if "." in leaf.strip(".") else None


def _sha256(text: str) -> str:
    found = _SHA256.fullmatch(text)
    if found is None:
        raise ValueError("is no sha256: 64 hexadecimal digits")
    return found["digits"].lower()


def read_catalogue(reader: Reader | None) -> dict[str, ModelFile]:
    """Read the named models."""
    found = {}
    for name, item in (reader.keys() if reader is not None else {}).items():
        keys = item.keys(*CATALOGUE_KEYS)
        if "folder" not in keys:
            item.fault("must have `folder`")
        try:
            check_folder(name)
        except ValueError as error:
            item.fault(f"the name {error}")
        model = _file(item, keys, name)
        if model is not None:
            found[name] = model
    return found
