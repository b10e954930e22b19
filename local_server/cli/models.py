"""`comfyfn models`: what is in the model folders, and how to bring or remove a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_server.cli.sizes import counted, size_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from handler.models.records import Stored
    from handler.models.store import Entry, Store
    from handler.settings import Settings
    from handler.transfer.download import Downloader
    from local_server.cli.model_map import ModelMap

OWNER = "comfyfn models"


def add_parser(verbs: Any) -> None:
    """Add the verb and those below it."""
    about = "list, add or remove files of the model folders"
    parser = verbs.add_parser("models", help=about, description=about)
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    shown = _add(below, "list", _list, "tell which files there are, and where they came from")
    shown.add_argument("folder", nargs="?", metavar="FOLDER", help="as checkpoints; default: all")
    shown.add_argument("--json", action="store_true", help="as JSON")
    shown.add_argument("--all", action="store_true", help="each file of `configs`, too")
    add = _add(below, "add", _fetch, "fetch a file into a model folder")
    add.add_argument("url", metavar="URL", help="or a path of this machine")
    add.add_argument("folder", metavar="FOLDER", help="as checkpoints")
    add.add_argument("--filename", help="its name there; default: the URL's last part")
    add.add_argument("--sha256", help="of the content; another one is refused")
    remove = _add(below, "remove", _remove, "remove a file that was fetched, from all folders")
    remove.add_argument(
        "name", nargs="?", metavar="NAME", help="a file's name, or its key as `list` tells it"
    )
    remove.add_argument(
        "--unfinished", action="store_true", help="what downloads left that did not end"
    )


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


def _list(options: argparse.Namespace) -> int:
    """Print the files by folder."""
    from handler.settings import Settings
    from local_server.cli.model_map import model_map
    from local_server.cli.models_list import brought_by_manifest, describe, print_folders

    settings = Settings.from_env()
    found = model_map(settings)
    folder = None if options.folder is None else _folder_called(options.folder, found)
    brought = brought_by_manifest(settings)
    report = describe(found, open_store(settings), folder, brought)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_folders(report, whole=options.all or folder is not None)
    return 0


def _folder_called(name: str, found: ModelMap) -> str:
    """Give the engine's name of a folder.

    Raises:
        InvalidPayload: there is none, with the nearest ones.
    """
    from handler.errors import InvalidPayload
    from handler.graph.nearest import nearest
    from handler.models.download_request import folder_called

    try:
        return folder_called(name, found.folders)
    except InvalidPayload as error:
        names = found.folders.names
        near = nearest(name, names, limit=3)
        known = f"there are {', '.join(sorted(names))}"
        hint = f"did you mean {' or '.join(near)}?" if near else known
        raise InvalidPayload(f"the engine has no model folder {name[:80]!r}", hint=hint) from error


# -- add ------------------------------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    """Fetch a file into a model folder."""
    return asyncio.run(_fetch_file(options))


async def _fetch_file(options: argparse.Namespace) -> int:
    from handler.models.names import check_filename
    from handler.models.records import ModelSource
    from handler.settings import Settings
    from local_server.cli.model_map import model_map

    settings = Settings.from_env()
    found = model_map(settings)
    folder = _folder_called(options.folder, found)
    if options.filename is not None:
        check_filename(options.filename)
    url = _as_url(options.url)
    root = found.folders.writable(folder)
    if root is None:
        print(f"comfyfn: nothing can be written to the model folder {folder}", file=sys.stderr)
        return 1
    source = ModelSource(url=url, sha256=options.sha256, operator=True)
    async with _fetching(settings) as (store, downloader):
        if options.filename is not None:
            await _check_size(found, folder, options.filename, url, downloader)
        stored = await _bring(store, source, options.filename)
        leaf = options.filename or stored.leaf
        path = await _publish(store, stored, root / leaf, found.folders.paths[folder])
        store.release(OWNER)
    if folder not in found.known:
        print(f"comfyfn: ComfyUI itself does not read the folder {folder}", file=sys.stderr)
    elif not found.lists(folder, leaf):
        print(f"comfyfn: the engine lists no such file in {folder}: {leaf}", file=sys.stderr)
    verb = "fetched" if stored.fetched else "here already"
    print(f"{path}: {size_text(stored.bytes)}, {verb}, {stored.seconds:.1f} s")
    return 0


def _as_url(text: str) -> str:
    """Give what stands for a path as one that leads there from everywhere.

    Raises:
        InputFailed: there is no such file.
    """
    from handler.errors import InputFailed

    if "://" in text or text.startswith("file:"):
        return text
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise InputFailed(f"no such file: {path}", hint="give a URL, or the path of a file")
    return str(path)


async def _bring(store: Store, source: Any, filename: str | None) -> Stored:
    """Have a file in the store, with a bar on the way; another content than the name's is refused.

    Raises:
        HandlerError: it cannot be had.
    """
    from handler.manifest.records import ModelFile
    from handler.models.download_request import last_segment
    from handler.transfer.verify import SAFETENSORS, check_safetensors
    from local_server.cli.bars import ByteBars

    label = filename or last_segment(source.url) or "file"
    with contextlib.closing(ByteBars(sys.stderr)) as bars:
        shown = ModelFile(urls=(), filename=label, name=label)
        stored = await store.get(source, OWNER, bars.listen(shown))
    if filename is not None and Path(filename).suffix.lower() in SAFETENSORS:
        check_safetensors(stored.path, filename)
    return stored


async def _check_size(
    found: ModelMap, folder: str, leaf: str, url: str, downloader: Downloader
) -> None:
    """Ask before gigabytes are fetched whether a file of that name can be the same.

    Raises:
        NameTaken: it has another size.
    """
    from handler.errors import HandlerError

    there = found.folders.locate(folder, leaf)
    if there is None:
        return
    try:
        size = (await downloader.stat(url)).size
    except HandlerError:  # the download itself tells it better
        return
    if size is not None and size != there.stat().st_size:
        raise _taken(there)


async def _publish(store: Store, stored: Stored, path: Path, searched: tuple[Path, ...]) -> Path:
    """Put a file into its folder; give where it is, which is elsewhere if the same is there.

    Raises:
        NameTaken: another file has the name in one of the folders that are searched together.
    """
    from handler.models.publish import NameTaken, taken_elsewhere

    try:
        there = await asyncio.to_thread(taken_elsewhere, searched, path, stored.path)
        if there is None:
            await store.publish(stored, path)
    except NameTaken as error:
        here = next((root / path.name for root in searched if (root / path.name).exists()), path)
        raise _taken(here) from error
    return there or path


def _taken(path: Path) -> Exception:
    from handler.models.publish import NameTaken

    return NameTaken(f"{path} is there already, with other content", hint="give another --filename")


@contextlib.asynccontextmanager
async def _fetching(settings: Settings) -> AsyncIterator[tuple[Store, Downloader]]:
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
        yield store, downloader
    finally:
        await downloader.close()


# -- remove ---------------------------------------------------------------------------------------


def _remove(options: argparse.Namespace) -> int:
    """Remove a file that was fetched, and its links; or what downloads left."""
    from handler.settings import Settings

    settings = Settings.from_env()
    if options.unfinished == (options.name is not None):
        print("comfyfn: give either a file's NAME or --unfinished", file=sys.stderr)
        return 2
    store = open_store(settings)
    if options.unfinished:
        from handler.models.incoming import Incoming

        freed = Incoming(store.root).clear()
        print(f"unfinished downloads: {size_text(freed)} freed")
        return 0
    found = [entry for entry in store.entries() if _is_called(entry, options.name)]
    if len(found) == 1:
        return _remove_entry(store, found[0])
    why = "no file that was fetched is called so; `comfyfn models list` tells those there are"
    if found:
        lines = "".join(f"\n  {entry.key}  {size_text(entry.bytes)}" for entry in found)
        why = f"several files are called so, remove one by its key:{lines}"
    print(f"comfyfn: {options.name}: {why}", file=sys.stderr)
    return 1


def _remove_entry(store: Store, entry: Entry) -> int:
    """Remove an object of the store, and tell every name that goes with it."""
    before = [link for link in entry.links if link.is_symlink() or link.exists()]
    freed = asyncio.run(store.remove(entry.key))
    gone = [link for link in before if not (link.is_symlink() or link.exists())]
    for link in gone:
        print(f"removed {link}")
    print(f"{entry.leaf}: {counted(len(gone), 'name')} removed, {size_text(freed)} freed")
    return 0


def _is_called(entry: Entry, name: str) -> bool:
    by_key = len(name) > len("sha256-") and entry.key.startswith(name)
    ends = (tuple(link.parts[-name.count("/") - 1 :]) for link in entry.links)
    return by_key or entry.leaf == name or any("/".join(end) == name for end in ends)
