"""What `comfyfn models list` tells: the files of the model folders, and where they came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from local_server.cli.sizes import counted, size_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from handler.models.store import Entry, Store
    from handler.settings import Settings
    from local_server.cli.model_map import ModelFileFound, ModelMap

_MEANINGS = {
    "protected": "it was had with credentials: each caller's own right is asked for",
    "from elsewhere": "it was in a cache of comfyui-api, which does not tell the URL",
}
_SHOWN_KEY = len("sha256-") + 16


def brought_by_manifest(settings: Settings) -> frozenset[Path]:
    """Give where the manifest's models lie; none where it cannot be read, which `doctor` tells."""
    from handler.errors import HandlerError
    from handler.manifest.schema import read_manifest
    from local_server.cli.manifest import places_of

    try:
        manifest = read_manifest(
            settings.manifest, settings.manifest_json, allow_local_git=settings.manifest_local_git
        )
        if manifest is None:
            return frozenset()
        places = places_of(settings)
        return frozenset(places.of(model) for model in manifest.models)
    except HandlerError:
        return frozenset()


def describe(
    found: ModelMap, store: Store, only: str | None = None, brought: Collection[Path] = ()
) -> dict[str, Any]:
    """Tell what is in the folders and in the store, JSON-safe.

    Args:
        only: one folder's name; all where None.
        brought: by the manifest.
    """
    entries = store.entries()
    known = {link: entry for entry in entries for link in entry.links}
    seen: dict[tuple[int, int], int] = {}
    told: dict[str, Any] = {}
    for name in found.folders.names if only is None else (only,):
        files = list(found.files(name))
        seen.update({file.identity: file.bytes for file in files if not file.dangling})
        told[name] = {
            "paths": [str(path) for path in found.folders.paths[name]],
            "read": name in found.known,
            "files": [_told(file, known.get(file.path), brought) for file in files],
        }
    return {
        "folders": told,
        "store": _store_told(store, entries),
        "total": {"files": len(seen), "bytes": sum(seen.values())},
    }


def _told(file: ModelFileFound, entry: Entry | None, brought: Collection[Path]) -> dict[str, Any]:
    return {
        "name": file.name,
        "bytes": file.bytes,
        "root": str(file.root),
        "dangling": file.dangling,
        "manifest": file.path in brought,
        "store": None if entry is None else _entry_told(entry),
    }


def _entry_told(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "url": entry.url,
        "last_use": round(entry.last_use, 3),
        "protected": entry.protected,
    }


def _store_told(store: Store, entries: list[Entry]) -> dict[str, Any]:
    from handler.models.incoming import Incoming

    nameless = [entry for entry in entries if not any(link.exists() for link in entry.links)]
    return {
        "path": str(store.root),
        "files": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "unfinished_bytes": Incoming(store.root).bytes(),
        "nameless": [
            {"name": entry.leaf, "bytes": entry.bytes, "store": _entry_told(entry)}
            for entry in nameless
        ],
    }


# -- for people -----------------------------------------------------------------------------------


def print_folders(report: dict[str, Any], *, whole: bool = False) -> None:
    """Print what `describe` tells.

    Args:
        whole: each of the configurations that come with ComfyUI, too.
    """
    lines = list(_lines(report, whole=whole))
    print(*lines, sep="\n")
    for word, meaning in _MEANINGS.items():
        if any(word in line for line in lines):
            print(f"{word}: {meaning}")


def _lines(report: dict[str, Any], *, whole: bool) -> Iterator[str]:
    for name, folder in report["folders"].items():
        yield from _folder_lines(name, folder, whole=whole)
    empty = [name for name, folder in report["folders"].items() if not folder["files"]]
    if empty:
        yield f"empty: {', '.join(empty)}"
    store, total = report["store"], report["total"]
    if store["nameless"]:
        yield "fetched, and in no folder (`comfyfn models remove KEY` removes one):"
    for entry in store["nameless"]:
        yield f"    {size_text(entry['bytes']):>10}  {entry['name']}{_origin(entry)}"
    yield f"total: {counted(total['files'], 'file')}, {size_text(total['bytes'])}"
    fetched = f"{counted(store['files'], 'file')}, {size_text(store['bytes'])}"
    yield f"fetched: {fetched}, in {store['path']}"
    if store["unfinished_bytes"]:
        clears = "`comfyfn models remove --unfinished` removes those that nobody goes on with"
        yield f"unfinished downloads: {size_text(store['unfinished_bytes'])}; {clears}"


def _folder_lines(name: str, folder: dict[str, Any], *, whole: bool) -> Iterator[str]:
    files = folder["files"]
    if not files:
        return
    total = f"{counted(len(files), 'file')}, {size_text(sum(file['bytes'] for file in files))}"
    unread = "" if folder["read"] else ", a folder that ComfyUI itself does not read"
    if not whole and name == "configs" and all(_is_plain_config(file) for file in files):
        yield f"{name}: {total} (--all tells each)"
        return
    yield f"{name}: {total}{unread}"
    for root in folder["paths"]:
        here = [file for file in files if file["root"] == root]
        if here:
            yield f"  {root}"
        for file in here:
            size = "dangling" if file["dangling"] else size_text(file["bytes"])
            yield f"    {size:>10}  {file['name']}{_origin(file)}"


def _is_plain_config(file: dict[str, Any]) -> bool:
    return file["name"].endswith(".yaml") and file["store"] is None and not file["dangling"]


def _origin(file: dict[str, Any]) -> str:
    stored, manifest = file["store"], "  from the manifest" * bool(file.get("manifest"))
    if stored is None:
        return manifest
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(stored["last_use"]))
    lock = ", protected" if stored["protected"] else ""
    source = manifest or f"  from {stored['url'] or 'elsewhere'}"
    return f"{source}, used {used}{lock}, {stored['key'][:_SHOWN_KEY]}"
