"""`comfyfn manifest`: what the manifest installs, now, at image build time, or never again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_server.cli.sizes import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from handler.manifest.installer import Downloads, Tools
    from handler.manifest.places import Places
    from handler.manifest.records import Manifest, ModelFile
    from handler.settings import Settings


def add_parser(verbs: Any) -> None:
    """Add the verb and those below it."""
    parser = verbs.add_parser("manifest", help="check, apply, lock or verify a manifest")
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add(below, "check", _check, "read it, and tell every fault with its line")
    apply = _add(below, "apply", _apply, "install and fetch everything it names")
    apply.add_argument("--locked", action="store_true", help="exactly as its lock has it")
    apply.add_argument("--skip-models", action="store_true", help="fetch no models")
    lock = _add(below, "lock", _lock, "pin every commit, package, hash and size that is here")
    verify = _add(below, "verify", _verify, "tell what differs from the lock")
    verify.add_argument("--quick", action="store_true", help="sizes of models, not their hashes")
    for verb in (apply, lock, verify):
        verb.add_argument("--lock", type=Path, help="the lock's file; default: beside the manifest")
        verb.add_argument("--pip-option", action="append", default=[], help="one more option of uv")


def _add(below: Any, name: str, call: Any, about: str) -> Any:
    verb = below.add_parser(name, help=about, description=about)
    verb.add_argument("path", nargs="?", type=Path, help="default: MANIFEST_JSON, MANIFEST")
    verb.add_argument(
        "--allow-local", action="store_true", help="take git repositories of this machine"
    )
    verb.set_defaults(call=call)
    return verb


def _read(options: argparse.Namespace) -> tuple[Settings, Manifest]:
    from handler.manifest.faults import InstallFailed
    from handler.manifest.schema import read_manifest
    from handler.settings import Settings

    settings = Settings.from_env()
    text = "" if options.path is not None else settings.manifest_json
    path = options.path or settings.manifest
    options.allow_local = options.allow_local or settings.manifest_local_git
    manifest = read_manifest(path, text, allow_local_git=options.allow_local)
    if manifest is None:
        raise InstallFailed("no manifest is named", hint="give its path, or set MANIFEST")
    return settings, manifest


def places_of(settings: Settings) -> Places:
    """Give the folders that manifests speak of, on this machine."""
    from handler.engine.command import folders
    from handler.engine.roots import candidates
    from handler.manifest.places import Places

    home = settings.comfy_home
    models = folders(settings, "comfyui" if home is not None else "embedded", Path()).models
    assert models is not None
    own = home / "models" if home is not None else models
    found = candidates(settings.model_dir, own, settings.model_roots)
    roots = (path for root in found for path in (root.path, root.path / "models"))
    return Places(models=models, home=home, roots=tuple(roots))


def _check(options: argparse.Namespace) -> int:
    """Tell what the manifest holds, and what of it may be another thing tomorrow."""
    settings, manifest = _read(options)
    places = places_of(settings)
    if settings.comfy_home is not None:
        places.check(manifest)
    counts = (
        (len(manifest.apt), "Debian package", ""),
        (len(manifest.pip), "Python package", ""),
        (len(manifest.custom_nodes), "node pack", ""),
        (len(manifest.before_start), "model", " before the start"),
        (len(manifest.after_start), "model", " after the start"),
        (len(manifest.catalogue), "named model", ""),
    )
    told = ", ".join(counted(count, what) + when for count, what, when in counts if count)
    print(f"{manifest.source} is fine: {told or 'nothing to do'}")
    for line in (*_strange_folders(settings, manifest), *_loose_ends(manifest)):
        print(f"  {line}")
    return 0


def _strange_folders(settings: Settings, manifest: Manifest) -> list[str]:
    """Name the models for folders that ComfyUI does not have; it is asked where it is here."""
    from handler.engine.command import interpreter
    from handler.engine.preflight import model_folders
    from handler.engine.roots import Registry, registry_of
    from handler.manifest.searched import strange

    models, home = (*manifest.models, *manifest.catalogue.values()), settings.comfy_home
    # Most name usual folders: ComfyUI, whose answer takes a second, is not asked then.
    if home is None or not strange(models, Registry()):
        return strange(models, Registry())
    told = model_folders(interpreter(settings), home)
    return strange(models, registry_of(told) if told is not None else Registry())


def _loose_ends(manifest: Manifest) -> Iterator[str]:
    from handler.manifest.git_refs import GitSource
    from handler.manifest.records import NIGHTLY

    for pack in manifest.custom_nodes:
        source = pack.source
        pinned = source.pin if isinstance(source, GitSource) else source.version
        if pinned in (None, NIGHTLY):
            yield f"line {pack.line}: {pack.name} is not pinned to a commit or version"
    for model in (*manifest.models, *manifest.catalogue.values()):
        if model.sha256 is None:
            yield f"line {model.line}: {model.label} has no sha256"


def _apply(options: argparse.Namespace) -> int:
    """Install everything, and show when what happened."""
    settings, manifest = _read(options)
    for line in _strange_folders(settings, manifest):
        print(f"comfyfn: {line}", file=sys.stderr)
    downloads = (
        contextlib.nullcontext(_skipped) if options.skip_models else open_downloads(settings)
    )
    with downloads as download, _tools(settings, manifest, options, download) as tools:
        if not options.locked:
            return asyncio.run(_carry_out(manifest, tools))
        from handler.manifest.lock import freeze, read_lock

        lock = read_lock(_lock_file(manifest, options))
        return asyncio.run(_carry_out(*freeze(manifest, lock, tools)))


async def _carry_out(manifest: Manifest, tools: Tools) -> int:
    from handler.errors import HandlerError
    from handler.manifest.apply import ColdStart
    from handler.manifest.installer import Installer
    from handler.manifest.plan import make_plan
    from handler.manifest.timeline import Timeline
    from local_server.cli.bars import StepBar

    plan = make_plan(manifest)
    with contextlib.closing(StepBar(len(plan), sys.stderr)) as bar:
        start = ColdStart(plan, Installer(manifest, tools), Timeline(listener=bar.tell))
        start.begin()
        try:
            await start.finished()
        finally:
            await start.stop()
    print(start.timeline.chart())
    after = {task.name for task in plan if task.gate == "none"}
    later = {name: error for name, error in start.faults.items() if name in after}
    for name, error in later.items():
        print(f"comfyfn: {name}: {error.message}", file=sys.stderr)
    try:
        await start.before_warmup()
    except HandlerError as error:
        print("\n".join(error.log_tail or []), file=sys.stderr)
        raise
    # At image build time a file for later that is missing is a fault like any other.
    return 1 if later else 0


def _lock(options: argparse.Namespace) -> int:
    """Write the lock."""
    from handler.manifest.lock import write_lock
    from handler.manifest.verify import take_lock

    settings, manifest = _read(options)
    path = _lock_file(manifest, options)
    with _tools(settings, manifest, options, _skipped) as tools:
        lock = asyncio.run(take_lock(manifest, tools))
    write_lock(lock, path)
    own = {pack.name for pack in manifest.custom_nodes}
    strays = [name for name in lock.custom_nodes if name not in own]
    more = f" ({len(strays)} of them not in the manifest: {', '.join(strays)})" if strays else ""
    counts = {
        "node pack": len(lock.custom_nodes),
        "package": len(lock.pip),
        "model": len(lock.models),
        "Debian package": len(lock.apt),
    }
    packs, *others = (counted(count, what) for what, count in counts.items())
    print(f"{path}: {', '.join([packs + more, *others])}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Print every difference; the status is 1 when there is one."""
    from handler.manifest.lock import read_lock
    from handler.manifest.verify import compare, named_otherwise, observe

    settings, manifest = _read(options)
    lock = read_lock(_lock_file(manifest, options))
    with _tools(settings, manifest, options, _skipped) as tools:
        now = asyncio.run(observe(manifest, tools, hashes=not options.quick, lock=lock))
        otherwise = named_otherwise(manifest, lock, tools.places)
    found = compare(lock, now)
    if lock.manifest != manifest.digest:
        print(f"{manifest.source} has changed since its lock was made")
        for line in otherwise:
            print(f"  {line}")
    for difference in found:
        print(difference)
    if not found:
        print("as locked")
    return 1 if found or lock.manifest != manifest.digest else 0


def _lock_file(manifest: Manifest, options: argparse.Namespace) -> Path:
    from handler.manifest.lock import lock_path

    given: Path | None = options.lock
    return given if given is not None else lock_path(manifest)


@contextlib.contextmanager
def _tools(
    settings: Settings, manifest: Manifest, options: argparse.Namespace, download: Downloads
) -> Iterator[Tools]:
    from handler.engine.command import interpreter
    from handler.manifest.build import make_tools
    from handler.settings import inherited_environment

    with tempfile.TemporaryDirectory(prefix="comfyfn-manifest-") as scratch:
        yield make_tools(
            manifest,
            places_of(settings),
            interpreter(settings),
            inherited_environment(),
            Path(scratch),
            download,
            pip_options=tuple(options.pip_option),
            allow_local=options.allow_local,
        )


async def _skipped(model: ModelFile, path: Path) -> str:
    return f"left out: {path.parent.name}/{model.label}"


@contextlib.contextmanager
def open_downloads(settings: Settings) -> Iterator[Downloads]:
    """Give what brings models, with a bar for each, for the time of a block.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    from handler.manifest.fetch import ModelFetcher
    from handler.transfer.download import Downloader
    from handler.transfer.operator import operator_sources
    from handler.transfer.threads import Threads
    from local_server.cli.bars import ByteBars

    threads = Threads()
    try:
        downloader = Downloader(operator_sources(settings, threads), threads=threads)
        with contextlib.closing(ByteBars(sys.stderr)) as bars:
            yield ModelFetcher(downloader, bars.listen)
    finally:
        threads.close()
