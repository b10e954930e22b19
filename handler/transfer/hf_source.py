"""Files of Hugging Face's hub, or of the one that HF_ENDPOINT names.

huggingface_hub fetches them, with Xet where the file is stored so. What its cache has is linked
from there, or copied across disks, and the cache stays as it was. What it has not comes past the
cache: there it would lie a second time, on a disk that nobody makes room on.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handler.credentials import Auth, BearerAuth, HeaderAuth
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.base import Remote
from handler.transfer.hub_faults import Elsewhere, Left, final, translated
from handler.transfer.hub_urls import parsed
from handler.transfer.local_source import placed
from handler.transfer.part import BROUGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handler.transfer.hub_urls import HubFile
    from handler.transfer.threads import Threads

log = logging.getLogger("comfyfn.transfer")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the hub.

    Attributes:
        revision: the commit, once the hub told it.
        fresh: what a cache has of it is no good.
    """

    repo: str
    kind: str
    revision: str
    path: str
    token: str | None = field(repr=False)
    fresh: bool = False


class HfSource:
    """Fetches files of the hub.

    Nothing of a file that was not brought to its end is kept: the library begins anew each time.

    Args:
        token: the operator's; the library's own (HF_TOKEN, a login) where None.
        endpoint: the hub; the library's own choice (HF_ENDPOINT) where None.
        cache_dir: the library's cache; its own choice (HF_HUB_CACHE, HF_HOME) where None.
        more_caches: others that are looked into after it; they need not be there.
    """

    def __init__(
        self,
        threads: Threads,
        *,
        token: str | None = None,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
        more_caches: Sequence[Path] = (),
    ) -> None:
        self._threads = threads
        self._token = token
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._cache_dir = cache_dir
        self._more_caches = tuple(more_caches)

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,  # noqa: ARG002 - the library brings it whole
        end: int | None = None,  # noqa: ARG002
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask the hub; documented at the port. Without parts, no cache is looked into."""
        file = parsed(url)
        if file is None:
            raise InputFailed(
                f"{redacted(url)} names no file of the hub",
                hint="take the link of the file's download button: .../resolve/main/name",
            )
        token = _token(auth) or self._token
        return await self._threads.call(lambda: self._ask(url, file, token, fresh=not parts))

    async def release(self, remote: Remote) -> None:
        """Nothing is open between calls; documented at the port."""

    async def bring(self, remote: Remote, part: Path, tell: Callable[[int], None]) -> int:
        """Link the file from a cache, or have the library fetch it; documented at the port."""
        known = remote.handle
        assert isinstance(known, _Found)
        found = known
        if not known.fresh:
            cached, damaged = await self._threads.call(lambda: self._cached(known, remote))
            if cached is not None:
                # The file may have gone meanwhile: a cache is not ours.
                with contextlib.suppress(FileNotFoundError):
                    await placed(cached, part, tell, self._threads)
                    log.info("%s is taken from the cache of huggingface_hub", found.path)
                    return part.stat().st_size
            if cached is not None or damaged:
                part.unlink(missing_ok=True)
                found = replace(found, fresh=True)
        await self._fetch(found, part, tell)
        return 0

    async def _fetch(self, found: _Found, part: Path, tell: Callable[[int], None]) -> None:
        left = threading.Event()
        # Not waited for when cancelled: until its next step the library writes into a folder of
        # its own only, which its thread removes.
        file, folder = await self._threads.call(
            lambda: self._fetched(found, part, tell, left),
            abort=left.set,
            dispose=lambda late: shutil.rmtree(late[1], ignore_errors=True),
        )
        try:
            file.rename(part)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the library's notes, a handful of files

    def _ask(self, url: str, file: HubFile, token: str | None, *, fresh: bool) -> Remote:
        """Find the revision by asking for each that the URL may mean. Blocking."""
        first: InputFailed | None = None
        for revision, path in file.choices:
            try:
                return self._meta(url, _Found(file.repo, file.kind, revision, path, token, fresh))
            except Elsewhere as fault:
                first = first or fault.told
        assert first is not None
        raise first

    def _meta(self, url: str, found: _Found) -> Remote:
        import huggingface_hub as hub

        with _translated(found):
            address = hub.hf_hub_url(
                found.repo,
                found.path,
                repo_type=found.kind,
                revision=found.revision,
                endpoint=self._endpoint,
            )
            meta = hub.get_hf_file_metadata(address, token=found.token, endpoint=self._endpoint)
        etag = meta.etag or ""
        return Remote(
            url=url,
            size=meta.size,
            etag=etag or None,
            ranges=False,
            sha256=etag if _SHA256.fullmatch(etag) else None,
            filename_hint=found.path.rpartition("/")[2],
            host=urlsplit(address).hostname or "huggingface.co",
            handle=replace(found, revision=meta.commit_hash or found.revision),
        )

    def _cached(self, found: _Found, remote: Remote) -> tuple[Path | None, bool]:
        """Look for the file in the caches. Blocking.

        Returns:
            Where it lies, links followed; and whether some cache has it in another length.
        """
        from huggingface_hub import constants

        damaged = False
        for cache in (self._cache_dir or Path(constants.HF_HUB_CACHE), *self._more_caches):
            with contextlib.suppress(OSError, ValueError):
                for path in _in_cache(cache, found, remote.sha256):
                    if path.stat().st_size == remote.size:
                        return path, damaged
                    damaged = True
        return None, damaged

    def _fetched(
        self, found: _Found, part: Path, tell: Callable[[int], None], left: threading.Event
    ) -> tuple[Path, Path]:
        """Have the library fetch the file, and give it and the folder it lies in. Blocking."""
        import huggingface_hub as hub

        # On the disk of the target: its room was made, and a rename is all that is left to do.
        folder = Path(
            tempfile.mkdtemp(prefix=f"{part.stem}.", suffix=f".{BROUGHT}", dir=part.parent)
        )
        try:
            with final(), _translated(found):
                file = hub.hf_hub_download(
                    found.repo,
                    found.path,
                    repo_type=found.kind,
                    revision=found.revision,
                    token=found.token,
                    endpoint=self._endpoint,
                    cache_dir=self._cache_dir,
                    local_dir=folder,
                    force_download=found.fresh,
                    tqdm_class=_bar(tell, left),
                )
            return Path(file), folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _in_cache(cache: Path, found: _Found, sha256: str | None) -> list[Path]:
    """Give where a cache may have a file: by its commit, or by its hash for another commit's."""
    from huggingface_hub import file_download, try_to_load_from_cache

    named = try_to_load_from_cache(
        found.repo,
        found.path,
        cache_dir=cache,
        revision=found.revision,
        repo_type=found.kind,
    )
    paths = [Path(named).resolve()] if isinstance(named, str) else []
    if sha256 is not None:
        folder = file_download.repo_folder_name(repo_id=found.repo, repo_type=found.kind)
        blob = cache / folder / "blobs" / sha256
        paths += [blob.resolve()] if blob.is_file() else []
    return paths


def _token(auth: Auth | None) -> str | None:
    if auth is None:
        return None
    if isinstance(auth, BearerAuth):
        return auth.token.get_secret_value()
    if isinstance(auth, HeaderAuth) and auth.header_name.lower() == "authorization":
        value = auth.header_value.get_secret_value().strip()
        if value.lower().startswith(_BEARER) and (token := value[len(_BEARER) :].strip()):
            return token
    raise InputFailed(
        f"Hugging Face takes credentials of type bearer, not {auth.type}",
        hint="put the access token into `token`",
    )


def _bar(tell: Callable[[int], None], left: threading.Event) -> type:
    """Make the class that the library tells its progress; it is also the way to stop it."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.here = int(options.get("initial") or 0)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if left.is_set():
                raise Left
            self.here += int(n or 0)
            tell(max(0, self.here))
            return None

    return Bar


def _translated(found: _Found) -> contextlib.AbstractContextManager[None]:
    return translated(found.repo, found.kind, found.revision, found.path)
