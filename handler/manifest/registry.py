"""ComfyUI's registry of node packs: a name in, the archive of one version out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote

from handler.manifest.faults import InstallFailed

BASE_URL = "https://api.comfy.org"
MARK = ".comfyfn-pack.json"
_MOST_ARCHIVE_BYTES = 2 << 30
_MOST_UNPACKED_BYTES = 8 << 30
_MOST_FILES = 100_000
_PROJECT = re.compile(r"^\[project\]\s*$(?P<body>.*?)(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Archive:
    """One version of a pack."""

    id: str
    version: str
    url: str


class RegistryResolver(Protocol):
    """Knows the packs by name. The port; `HttpRegistry` is the real one."""

    async def find(self, pack: str, version: str | None) -> Archive:
        """Find a version of a pack, the newest for None.

        Raises:
            InstallFailed: there is no such pack or version, or the registry does not answer.
        """
        ...

    async def repository(self, pack: str) -> str:
        """Give the address of a pack's git repository.

        Raises:
            InstallFailed: there is no such pack, it tells none, or the registry does not answer.
        """
        ...

    async def fetch(self, archive: Archive, target: Path) -> str:
        """Bring the archive's zip file to `target`, and give its sha256.

        Raises:
            InstallFailed: it cannot be had.
        """
        ...


class HttpRegistry:
    """The registry over HTTP, as comfy-cli asks it (`GET /nodes/{id}/install?version=`)."""

    def __init__(self, base_url: str = BASE_URL, timeout_s: float = 60.0) -> None:
        self._base = base_url.rstrip("/")
        self._timeout_s = timeout_s

    async def find(self, pack: str, version: str | None) -> Archive:
        """Ask for the version."""
        params = {"version": version} if version is not None else {}
        wanted = f"{pack} {version}" if version else pack
        found = await self._ask(pack, "/install", params, wanted)
        return Archive(pack, *_texts(pack, found, "version", "downloadUrl"))

    async def repository(self, pack: str) -> str:
        """Ask for the pack itself."""
        return _texts(pack, await self._ask(pack, "", {}, pack), "repository")[0]

    async def _ask(self, pack: str, rest: str, params: dict[str, str], wanted: str) -> Any:
        import httpx

        url = f"{self._base}/nodes/{quote(pack, safe='')}{rest}"
        try:
            async with httpx.AsyncClient(timeout=self._timeout_s, follow_redirects=True) as client:
                answer = await client.get(url, params=params)
                if answer.status_code == 404:
                    raise InstallFailed(
                        f"the registry of ComfyUI has no pack {wanted!r}",
                        hint="look it up on registry.comfy.org, or give its git address",
                    )
                return answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise _no_answer(pack, error) from error

    async def fetch(self, archive: Archive, target: Path) -> str:
        """Stream the archive to disk."""
        import httpx

        digest, size = hashlib.sha256(), 0
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout_s, follow_redirects=True) as client,
                client.stream("GET", archive.url) as answer,
            ):
                answer.raise_for_status()
                with target.open("wb") as file:
                    async for block in answer.aiter_bytes(1 << 18):
                        size += len(block)
                        if size > _MOST_ARCHIVE_BYTES:
                            raise InstallFailed(f"the archive of {archive.id} is over 2 GiB")
                        digest.update(block)
                        file.write(block)
        except httpx.HTTPError as error:
            raise InstallFailed(
                f"the archive of {archive.id} {archive.version} cannot be fetched: "
                f"{type(error).__name__}",
                retryable=True,
            ) from error
        return digest.hexdigest()


def _texts(pack: str, found: Any, *keys: str) -> list[str]:
    try:
        return [str(found[key]) for key in keys]
    except (KeyError, TypeError) as error:
        raise _no_answer(pack, error) from error


def _no_answer(pack: str, error: Exception) -> InstallFailed:
    return InstallFailed(
        f"the registry of ComfyUI gives no answer for {pack!r}: {type(error).__name__}",
        retryable=True,
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """What we note in a pack's folder about where it came from."""

    id: str
    version: str
    sha256: str | None = None


def read_mark(folder: Path) -> Mark | None:
    """Tell which pack of the registry a folder holds; None when it does not say.

    A pack that ComfyUI-Manager brought has no note of ours, but a `.tracking` file, and its name
    and version in pyproject.toml.
    """
    try:
        found = json.loads((folder / MARK).read_text())
        return Mark(str(found["id"]), str(found["version"]), found.get("sha256"))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if not (folder / ".tracking").is_file():
        return None
    try:
        project = _project((folder / "pyproject.toml").read_text())
        return Mark(str(project["name"]), str(project["version"]))
    except (OSError, ValueError, KeyError):
        return None


def _project(text: str) -> dict[str, Any]:
    import tomllib

    try:
        return dict(tomllib.loads(text)["project"])
    except tomllib.TOMLDecodeError:
        # Packs get away with broken tables elsewhere in the file.
        found = _PROJECT.search(text)
        return dict(tomllib.loads(found["body"])) if found else {}


def write_mark(folder: Path, mark: Mark) -> None:
    """Note where a pack came from."""
    body = {"id": mark.id, "version": mark.version, "sha256": mark.sha256}
    (folder / MARK).write_text(json.dumps(body))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file; nothing gets out of `folder`.

    Raises:
        InstallFailed: it is no zip file, too large, or has paths that lead out of it.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            if len(members) > _MOST_FILES:
                raise InstallFailed("the archive holds too many files")
            if sum(member.file_size for member in members) > _MOST_UNPACKED_BYTES:
                raise InstallFailed("the archive is too large unpacked")
            for member in members:
                _unpack_member(packed, member, folder)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise InstallFailed(f"the archive cannot be unpacked: {error}") from error


def _unpack_member(packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = PurePosixPath(member.filename)
    kind = member.external_attr >> 28  # of Unix: 0xA is a symbolic link
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or kind == 0xA:
        raise InstallFailed(f"the archive holds {member.filename!r}, which leads out of it")
    target = folder.joinpath(*path.parts)
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with packed.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
