"""Puts packs of custom nodes where ComfyUI looks: the right commit, then `install.py`.

What is there already costs milliseconds, and the network nothing where the manifest names a
commit or a tag. A pack appears under its own name only when it is complete; until then, and when
it is set aside, its folder ends in `.disabled`, which ComfyUI passes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handler.manifest import commands
from handler.manifest.faults import InstallFailed
from handler.manifest.git_refs import GitSource, Resolved, choose, parse
from handler.manifest.records import NIGHTLY
from handler.manifest.registry import Mark, read_mark, unpack, write_mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from handler.manifest.git import Clone, Git
    from handler.manifest.records import NodePack, RegistryName
    from handler.manifest.registry import RegistryResolver

log = logging.getLogger("comfyfn.manifest")

_PARTIAL = ".comfyfn-partial.disabled"
_STALE_S = 2 * 3600.0
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Placed:
    """A pack in its folder.

    Attributes:
        commit: of its clone; None for a pack from the registry.
        version: of a pack from the registry.
        fresh: whether its `install.py` is still to run.
    """

    pack: NodePack
    folder: Path
    commit: str | None = None
    version: str | None = None
    fresh: bool = False

    @property
    def requirements(self) -> Path | None:
        """Its requirements.txt, where it has one."""
        path = self.folder / "requirements.txt"
        return path if path.is_file() else None


class NodeFolder:
    """The folder `custom_nodes`.

    Args:
        root: made when missing.
    """

    def __init__(self, root: Path, git: Git, registry: RegistryResolver) -> None:
        self.root = root
        self._git = git
        self._registry = registry
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def place(self, pack: NodePack) -> Placed:
        """Make sure that a pack is there, as the manifest wants it.

        Raises:
            InstallFailed: naming the pack.
        """
        async with self._slots:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(self._sweep, pack.name)
                if isinstance(pack.source, GitSource):
                    return await self._place_git(pack, pack.source)
                if pack.source.version == NIGHTLY:
                    return await self._place_git(pack, await self._repository(pack, pack.source))
                return await self._place_archive(pack, pack.source)
            except InstallFailed as error:
                raise _of_pack(pack, error) from error
            except OSError as error:
                raise InstallFailed(f"node pack {pack.name}: {error}") from error

    async def _place_git(self, pack: NodePack, source: GitSource) -> Placed:
        folder = self.root / pack.name
        clone = await self._git.look(folder)
        if clone is not None and not _same_repository(clone.origin, source.url):
            self._set_aside(pack, f"is a clone of {commands.without_secrets(clone.origin)}")
            clone = None
        elif clone is None and _holds_something(folder):
            self._set_aside(pack, "is no clone of a git repository")
        if clone is not None and _is_settled(folder, source, clone):
            return self._kept(pack, clone)
        wanted = await self._resolve(source, clone)
        if clone is None:
            return await self._clone(pack, source, wanted)
        if wanted is None or wanted.commit == clone.commit:
            return self._kept(pack, clone)
        return await self._move(pack, source, clone, wanted)

    async def _repository(self, pack: NodePack, source: RegistryName) -> GitSource:
        """Give the repository that the registry tells; without it that of the clone."""
        try:
            return parse(await self._registry.repository(source.id))
        except ValueError as error:
            raise InstallFailed(f"its repository in the registry {error}") from error
        except InstallFailed as error:
            clone = await self._git.look(self.root / pack.name)
            if clone is None:
                raise
            log.warning("%s; the one of the copy is taken", error.message)
            return GitSource(clone.origin)

    async def _resolve(self, source: GitSource, clone: Clone | None) -> Resolved | None:
        """Find what the ref means now; None keeps the clone that is there."""
        if source.pin is not None:
            return Resolved(source.pin, source.pin, source.pin, moves=False)
        try:
            refs = await self._git.advertised(source)
        except InstallFailed as error:
            if clone is None:
                raise
            log.warning("%s; the copy of %s stays as it is", error.message, source.name)
            return None
        wanted = choose(source, refs)
        if wanted is None:
            names = " or ".join(repr(ref) for ref in source.refs) or "no commit yet"
            raise InstallFailed(f"{source.url} has no tag, branch or commit {names}")
        return wanted

    async def _clone(self, pack: NodePack, source: GitSource, wanted: Resolved | None) -> Placed:
        assert wanted is not None
        with self._partial(pack.name) as partial:
            commit = await self._git.obtain(partial, source, wanted)
            _note(partial, wanted, commit)
            folder = self._publish(partial, pack)
        return Placed(pack, folder, commit, fresh=True)

    async def _move(
        self, pack: NodePack, source: GitSource, clone: Clone, wanted: Resolved
    ) -> Placed:
        """Bring an existing clone to another commit."""
        folder = self.root / pack.name
        if clone.changed:
            reason = f"has changes of its own ({', '.join(clone.changed[:3])})"
            if wanted.moves and not pack.replace:
                log.warning("node pack %s %s: it stays at %s", pack.name, reason, clone.commit)
                return self._kept(pack, clone)
            self._set_aside(pack, reason)
            return await self._clone(pack, source, wanted)
        unfinished = _pending(folder).exists()
        _pending(folder).touch()
        try:
            commit = await self._git.obtain(folder, source, wanted)
        except InstallFailed as error:
            if not unfinished:
                _pending(folder).unlink(missing_ok=True)
            if not wanted.moves:
                raise
            log.warning("node pack %s stays as it is: %s", pack.name, error.message)
            return self._kept(pack, clone)
        _note(folder, wanted, commit)
        return Placed(pack, folder, commit, fresh=True)

    def _kept(self, pack: NodePack, clone: Clone) -> Placed:
        folder = self.root / pack.name
        if clone.changed:
            log.warning("node pack %s has changed files: %s", pack.name, ", ".join(clone.changed))
        return Placed(pack, folder, clone.commit, fresh=_pending(folder).exists())

    async def _place_archive(self, pack: NodePack, source: RegistryName) -> Placed:
        folder = self.root / pack.name
        mark = read_mark(folder)
        if mark is not None and mark.id.casefold() != source.id.casefold():
            self._set_aside(pack, f"holds {mark.id}")
            mark = None
        elif mark is None and _holds_something(folder):
            self._set_aside(pack, "was not brought from the registry")
        if mark is not None and source.version in (None, mark.version):
            fresh = _pending(folder).exists()
            return Placed(pack, folder, version=mark.version, fresh=fresh)
        found = await self._registry.find(source.id, source.version)
        with self._partial(pack.name) as partial, tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "pack.zip"
            sha256 = await self._registry.fetch(found, archive)
            await asyncio.to_thread(unpack, archive, partial)
            write_mark(partial, Mark(found.id, found.version, sha256))
            _pending(partial).touch()
            if mark is not None:  # another version of the same pack gives way
                await asyncio.to_thread(shutil.rmtree, folder)
            folder = self._publish(partial, pack)
        return Placed(pack, folder, version=found.version, fresh=True)

    def _set_aside(self, pack: NodePack, reason: str) -> None:
        folder = self.root / pack.name
        if not pack.replace:
            raise InstallFailed(
                f"{folder} {reason}",
                hint="remove it, or set `replace: true` to have it set aside",
            )
        for number in itertools.count(1):
            aside = self.root / f"{pack.name}.{number}.disabled"
            if not aside.exists():
                folder.rename(aside)
                log.warning("%s %s: set aside as %s", folder, reason, aside.name)
                return

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=_PARTIAL, dir=self.root))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, partial: Path, pack: NodePack) -> Path:
        folder = self.root / pack.name
        try:
            partial.rename(folder)
        except OSError as error:
            raise InstallFailed(f"{folder} appeared meanwhile: {error.strerror}") from error
        return folder

    def _sweep(self, name: str) -> None:
        """Remove what a killed run left, but nothing that another machine may be at."""
        for left in self.root.glob(f".{name}.*{_PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    shutil.rmtree(left)


async def run_install_script(
    placed: Placed,
    python: Path,
    env: Mapping[str, str],
    *,
    timeout_s: float = commands.DEFAULT_TIMEOUT_S,
) -> bool:
    """Run the `install.py` of a fresh pack with ComfyUI's interpreter; False when there is none.

    Raises:
        InstallFailed: it failed; it runs again at the next try.
    """
    script = placed.folder / "install.py"
    if not placed.fresh or placed.pack.skip_install_script or not script.is_file():
        settle(placed)
        return False
    what = f"install.py of {placed.pack.name}"
    try:
        await commands.run(
            [python, script.name], what=what, env=env, cwd=placed.folder, timeout_s=timeout_s
        )
    except InstallFailed as error:
        raise _of_pack(placed.pack, error) from error
    settle(placed)
    return True


def settle(placed: Placed) -> None:
    """Note that a pack's installation is complete."""
    _pending(placed.folder).unlink(missing_ok=True)


def _of_pack(pack: NodePack, error: InstallFailed) -> InstallFailed:
    return InstallFailed(
        f"node pack {pack.name}: {error.message}",
        hint=error.hint,
        details={"pack": pack.name, "line": pack.line},
        log_tail=error.log_tail,
        retryable=error.retryable,
    )


def _pending(folder: Path) -> Path:
    """Give the file that is there from a pack's arrival until its installation is complete."""
    inside = folder / ".git"
    return inside / "comfyfn-pending" if inside.is_dir() else folder / ".comfyfn-pending"


def _note(folder: Path, wanted: Resolved, commit: str) -> None:
    """Note which ref was asked for, so that the same one need not be looked up again."""
    _pending(folder).touch()
    kept = folder / ".git" / "comfyfn-ref"
    if wanted.moves:
        kept.unlink(missing_ok=True)
    else:
        kept.write_text(f"{wanted.ref}\n{commit}\n")


def _is_settled(folder: Path, source: GitSource, clone: Clone) -> bool:
    if source.pin is not None:
        return source.pin == clone.commit
    with contextlib.suppress(OSError, ValueError):
        ref, commit = (folder / ".git" / "comfyfn-ref").read_text().splitlines()
        # Only the longest candidate is beyond doubt without asking the repository.
        return source.refs[:1] == (ref,) and commit == clone.commit
    return False


def _holds_something(folder: Path) -> bool:
    """Tell whether a folder is in use; an empty one is taken away."""
    if folder.is_symlink() or folder.is_file():
        return True
    if not folder.is_dir():
        return False
    if any(folder.iterdir()):
        return True
    folder.rmdir()
    return False


def _same_repository(one: str, other: str) -> bool:
    return _bare(one) == _bare(other)


def _bare(address: str) -> str:
    """Give host and path alone: `git@host:o/r.git` and `https://host/o/r` are one repository."""
    text = re.sub(r"^[a-z+]+://", "", address.strip())
    text = re.sub(r"^[^/@]*@", "", text)
    return text.replace(":", "/").rstrip("/").removesuffix(".git").casefold()
