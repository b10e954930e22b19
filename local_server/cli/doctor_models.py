"""What `comfyfn doctor` tells of models: where they are, what is not seen, how fast they read."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handler.engine.roots import DEFAULT_VOLUMES
from handler.errors import HandlerError
from local_server.cli.doctor_files import file_findings
from local_server.cli.findings import Finding
from local_server.cli.model_map import model_map, will_be_made

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from handler.settings import Settings
    from local_server.cli.model_map import ModelFileFound, ModelMap

GIB = 1 << 30
LITTLE_SPACE_GIB = 2.0
MEASURED_BYTES = 256 << 20
MEASURED_S = 2.0
BLOCK_BYTES = 8 << 20
SLOW_MB_S = 200.0
_NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "lustre", "glusterfs", "virtiofs", "beegfs")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: where, and of which type."""

    point: Path
    kind: str

    @property
    def remote(self) -> bool:
        """Whether it is reached by a network, as far as its type tells."""
        return self.kind.startswith(_NETWORK)


def model_findings(
    settings: Settings, *, quick: bool, volumes: Sequence[Path] = DEFAULT_VOLUMES
) -> list[Finding]:
    """Look at all folders of models. Makes and changes nothing.

    Args:
        quick: without reading from the disks to see how fast they are.
        volumes: roots that count where they exist.
    """
    try:
        found = model_map(settings, volumes)
    except HandlerError as error:
        return [Finding("warn", "model folders", error.message)]
    findings = [] if found.told else [Finding("warn", "model folders", _NOT_TOLD)]
    findings += _roots(found, volumes)
    files = [file for name in found.folders.names for file in found.files(name)]
    findings += [*file_findings(found, files), *_cache(settings)]
    return findings if quick else [*findings, *_throughput(found, files)]


_NOT_TOLD = "ComfyUI does not tell its model folders; the usual names are taken"


# -- roots ----------------------------------------------------------------------------------------


def _roots(found: ModelMap, volumes: Sequence[Path]) -> Iterator[Finding]:
    if found.own is not None:
        yield _root(found.own, "")
    for root in found.roots:
        if root.own and will_be_made(root.path):
            yield Finding("ok", "model root", f"{root.path}: not there yet, will be made")
        elif root.problem:
            yield Finding("warn", "model root", f"{root.path}: not searched, {root.problem}")
        else:
            searched = len(root.folders)
            none = f"no model folder in it, as {root.path}/checkpoints or {root.path}/models/loras"
            yield _root(root.path, none if not searched else "")
    for volume in volumes:
        if not volume.exists():
            yield Finding("ok", "volume", f"{volume} is not there")


def _root(path: Path, complaint: str) -> Finding:
    if not path.exists():
        return Finding("ok", "model root", f"{path}, not there yet")
    mount = mount_of(path)
    kind = f"{mount.kind} at {mount.point}" if mount else "unknown file system"
    free = shutil.disk_usage(path).free / GIB
    told = f"{path}: {kind}, {free:.1f} GiB free"
    if not os.access(path, os.R_OK | os.X_OK):
        return Finding("bad", "model root", f"{told}, it cannot be read")
    if not os.access(path, os.W_OK):
        told += ", read-only"
    level = "warn" if complaint or free < LITTLE_SPACE_GIB else "ok"
    return Finding(level, "model root", f"{told}, {complaint}" if complaint else told)


def mount_of(path: Path, table: Path = Path("/proc/self/mounts")) -> Mount | None:
    """Give the file system that a path is on; None where the kernel does not tell."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in table.read_text().splitlines()]
        mounts = [Mount(Path(_unescaped(line[1])), line[2]) for line in lines if len(line) > 2]
        real = path.resolve()
        over = [mount for mount in mounts if real.is_relative_to(mount.point)]
        # Of two at the same place the later one hides the other.
        return max(reversed(over), key=lambda mount: len(mount.point.parts), default=None)
    return None


def _unescaped(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


# -- cache and speed ------------------------------------------------------------------------------


def _cache(settings: Settings) -> list[Finding]:
    from handler.build import cache_folder

    folder = cache_folder(settings)
    budget = f"budget {settings.cache_gb:g} GiB" if settings.cache_gb else "no budget"
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / GIB
    taken = 0
    with contextlib.suppress(OSError):
        objects = folder / "objects"
        taken = sum(path.stat().st_size for path in objects.iterdir() if path.is_file())
    told = f"{folder}: {taken / GIB:.1f} GiB of models fetched, {budget}, {free:.1f} GiB free"
    short = settings.cache_gb and settings.cache_gb > taken / GIB + free
    if short:
        told += ", less than the budget"
    return [Finding("warn" if short or free < LITTLE_SPACE_GIB else "ok", "cache", told)]


def _throughput(found: ModelMap, files: Iterable[ModelFileFound]) -> Iterator[Finding]:
    """Measure how fast the largest file of each root reads that is not in memory."""
    by_root: dict[Path, list[ModelFileFound]] = {}
    for file in files:
        if not file.dangling and file.bytes >= BLOCK_BYTES:
            by_root.setdefault(_root_of(file.root, found), []).append(file)
    for root, there in by_root.items():
        there.sort(key=lambda file: file.bytes, reverse=True)
        speed = next(filter(None, (read_speed(file.path) for file in there)), None)
        if speed is None:
            yield Finding("ok", "read speed", f"{root}: all of it is in memory already")
            continue
        slow = ", the first load will take long" if speed < SLOW_MB_S else ""
        level = "warn" if slow else "ok"
        yield Finding(level, "read speed", f"{root}: {speed:,.0f} MB/s{slow}")


def _root_of(folder: Path, found: ModelMap) -> Path:
    bases = [root.path for root in found.roots] + ([found.own] if found.own else [])
    over = [base for base in bases if folder.is_relative_to(base)]
    return max(over, key=lambda base: len(base.parts), default=folder)


def read_speed(path: Path) -> float | None:
    """Read from a file what is not in memory, 256 MiB or 2 s of it at most.

    Returns:
        MB/s; None where nothing of it had to be read, or it cannot be.
    """
    buffer = bytearray(BLOCK_BYTES)
    count, took = 0, 0.0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for offset in range(0, size - BLOCK_BYTES + 1, BLOCK_BYTES):
                if count >= MEASURED_BYTES or took >= MEASURED_S:
                    break
                if _in_memory(file.fileno(), offset):
                    continue
                begun = time.monotonic()
                count += os.preadv(file.fileno(), [buffer], offset)
                took += time.monotonic() - begun
    except OSError:
        return None
    return count / 1e6 / max(took, 1e-9) if count else None


def _in_memory(descriptor: int, offset: int) -> bool:
    """Tell whether a block is in the page cache, by its first and last byte."""
    page = bytearray(1)
    try:
        last = offset + BLOCK_BYTES - 1
        return all(os.preadv(descriptor, [page], at, os.RWF_NOWAIT) for at in (offset, last))
    except OSError:  # it is not there, or the file system cannot tell
        return False
