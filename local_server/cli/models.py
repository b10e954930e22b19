"""`comfyfn models`: what is in the model folders, and how to bring or remove a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator
    from pathlib import Path

    from handler.models.store import Entry, Store
    from handler.settings import Settings
    from local_server.cli.model_map import ModelFileFound, ModelMap

OWNER = "comfyfn models"


def add_parser(verbs: Any) -> None:
    """Add the verb and those below it."""
    about = "list, add or remove files of the model folders"
    parser = verbs.add_parser("models", help=about, description=about)
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    shown = _add(below, "list", _list, "tell which files there are, and where they came from")
    shown.add_argument("folder", nargs="?", metavar="FOLDER", help="as checkpoints; default: all")
    shown.add_argument("--json", action="store_true", help="as JSON")
    add = _add(below, "add", _fetch, "fetch a file into a model folder")
    add.add_argument("url", metavar="URL")
    add.add_argument("folder", metavar="FOLDER", help="as checkpoints")
    add.add_argument("--filename", help="its name there; default: the URL's last part")
    add.add_argument("--sha256", help="of the content; another one is refused")
    remove = _add(below, "remove", _remove, "remove a file that was fetched, from all folders")
    remove.add_argument("name", metavar="NAME", help="a file's name, or its key as `list` tells it")


def _add(below: Any, name: str, call: Any, about: str) -> Any:
    verb = below.add_parser(name, help=about, description=about)
    verb.set_defaults(call=call)
    return verb


def open_store(settings: Settings) -> Store:
    """Open the store that the server of these settings uses.

    Raises:
        InternalFault: its folder cannot be made or read.
    """
    from handler.build import cache_folder
    from handler.models.store import Store

    store = Store(cache_folder(settings), budget=round(settings.cache_gb * (1 << 30)))
    store.open()
    return store


# -- list -----------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    """Print the files by folder."""
    from handler.settings import Settings
    from local_server.cli.model_map import model_map

    settings = Settings.from_env()
    report = describe(model_map(settings), open_store(settings), options.folder)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print_folders(report)
    return 0


def describe(found: ModelMap, store: Store, only: str | None = None) -> dict[str, Any]:
    """Tell what is in the folders and in the store, JSON-safe.

    Args:
        only: one folder's name; all where None.

    Raises:
        InvalidPayload: there is no such folder.
    """
    from handler.models.download_request import folder_called

    names = found.folders.names if only is None else (folder_called(only, found.folders),)
    entries = store.entries()
    known = _by_place(entries)
    seen: dict[tuple[int, int], int] = {}
    told: dict[str, Any] = {}
    for name in names:
        files = list(found.files(name))
        seen.update({file.identity: file.bytes for file in files if not file.dangling})
        told[name] = {
            "paths": [str(path) for path in found.folders.paths[name]],
            "files": [_told(file, known.get(file.path)) for file in files],
        }
    stored = {
        "path": str(store.root),
        "files": len(entries),
        "bytes": sum(e.bytes for e in entries),
    }
    total = {"files": len(seen), "bytes": sum(seen.values())}
    return {"folders": told, "store": stored, "total": total}


def _by_place(entries: list[Entry]) -> dict[Path, Entry]:
    return {link: entry for entry in entries for link in entry.links}


def _told(file: ModelFileFound, entry: Entry | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": file.name,
        "bytes": file.bytes,
        "root": str(file.root),
        "dangling": file.dangling,
        "store": None,
    }
    if entry is not None:
        told["store"] = {
            "key": entry.key,
            "url": entry.url,
            "last_use": round(entry.last_use, 3),
            "protected": entry.protected,
        }
    return told


def _print_folders(report: dict[str, Any]) -> None:
    for name, folder in report["folders"].items():
        if not folder["files"]:
            continue
        total = sum(file["bytes"] for file in folder["files"])
        print(f"{name}: {len(folder['files'])} files, {size_text(total)}")
        for root in folder["paths"]:
            files = [file for file in folder["files"] if file["root"] == root]
            if files:
                print(f"  {root}")
            for file in files:
                size = "dangling" if file["dangling"] else size_text(file["bytes"])
                print(f"    {size:>10}  {file['name']}{_origin(file['store'])}")
    empty = [name for name, folder in report["folders"].items() if not folder["files"]]
    if empty:
        print(f"empty: {', '.join(empty)}")
    store, total = report["store"], report["total"]
    print(f"total: {total['files']} files, {size_text(total['bytes'])}")
    print(f"fetched: {store['files']} files, {size_text(store['bytes'])}, in {store['path']}")


def _origin(stored: dict[str, Any] | None) -> str:
    if stored is None:
        return ""
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(stored["last_use"]))
    lock = ", protected" if stored["protected"] else ""
    return f"  from {stored['url'] or 'elsewhere'}, used {used}{lock}, {stored['key'][:23]}"


def size_text(count: int) -> str:
    """Write a size as people do: in MB, or GB from one on."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


# -- add ------------------------------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    """Fetch a file into a model folder."""
    return asyncio.run(_fetch_file(options))


async def _fetch_file(options: argparse.Namespace) -> int:
    from handler.manifest.records import ModelFile
    from handler.models.download_request import folder_called, last_segment
    from handler.models.names import check_filename
    from handler.models.records import ModelSource
    from handler.settings import Settings
    from local_server.cli.bars import ByteBars
    from local_server.cli.model_map import model_map

    settings = Settings.from_env()
    found = model_map(settings)
    folder = folder_called(options.folder, found.folders)
    if options.filename is not None:
        check_filename(options.filename)
    root = found.folders.writable(folder)
    if root is None:
        print(f"comfyfn: nothing can be written to the model folder {folder}", file=sys.stderr)
        return 1
    source = ModelSource(url=options.url, sha256=options.sha256, operator=True)
    async with _fetching(settings) as store:
        with contextlib.closing(ByteBars(sys.stderr)) as bars:
            label = options.filename or last_segment(options.url) or "file"
            listener = bars.listen(ModelFile(urls=(), name=label))
            stored = await store.get(source, OWNER, listener)
        leaf = options.filename or stored.leaf
        await store.publish(stored, root / leaf)
        store.release(OWNER)
    if not found.lists(folder, leaf):
        print(f"comfyfn: the engine lists no such file in {folder}: {leaf}", file=sys.stderr)
    verb = "fetched" if stored.fetched else "here already"
    print(f"{root / leaf}: {size_text(stored.bytes)}, {verb}, {stored.seconds:.1f} s")
    return 0


@contextlib.asynccontextmanager
async def _fetching(settings: Settings) -> AsyncIterator[Store]:
    """Give the store with what fetches for it."""
    from handler.transfer.download import Downloader
    from handler.transfer.operator import operator_sources
    from handler.transfer.records import Limits
    from handler.transfer.threads import Threads

    store = open_store(settings)
    threads = Threads()
    downloader = Downloader(
        operator_sources(settings, threads),
        threads=threads,
        limits=Limits(total_s=settings.download_timeout_s),
        make_room=store.make_room,
    )
    store.attach(downloader, downloader)
    try:
        yield store
    finally:
        await downloader.close()


# -- remove ---------------------------------------------------------------------------------------


def _remove(options: argparse.Namespace) -> int:
    """Remove a file that was fetched, and its links."""
    from handler.settings import Settings

    settings = Settings.from_env()
    store = open_store(settings)
    found = [entry for entry in store.entries() if _is_called(entry, options.name)]
    if len(found) != 1:
        keys = "".join(f"\n  {entry.key}" for entry in found)
        why = f"several files are called so, remove one by its key:{keys}"
        if not found:
            why = (
                "no file that was fetched is called so; `comfyfn models list` tells those there are"
            )
        print(f"comfyfn: {options.name}: {why}", file=sys.stderr)
        return 1
    freed = asyncio.run(store.remove(found[0].key))
    for link in found[0].links:
        print(link)
    print(f"{found[0].leaf}: {size_text(freed)} freed")
    return 0


def _is_called(entry: Entry, name: str) -> bool:
    by_key = len(name) > len("sha256-") and entry.key.startswith(name)
    ends = (tuple(link.parts[-name.count("/") - 1 :]) for link in entry.links)
    return by_key or entry.leaf == name or any("/".join(end) == name for end in ends)
