"""Files of Hugging Face's hub, or of the one that HF_ENDPOINT names.

huggingface_hub fetches them into its own cache, with Xet where the file is stored so; from there
the file is linked, or copied across disks, and the cache stays as it was.
"""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from handler.credentials import Auth, BearerAuth
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.base import AccessDenied, Remote
from handler.transfer.http_line import passing
from handler.transfer.local_source import placed
from handler.transfer.room import is_storing_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from handler.transfer.threads import Threads

_VERBS = frozenset({"resolve", "blob", "raw"})
_KINDS = {"datasets": "dataset", "spaces": "space"}
_SPECIAL = re.compile(r"refs/(?:pr|convert)/[^/]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_REVISION = 4
"""Path segments that a revision may have."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """What a URL of the hub names.

    Attributes:
        kind: `model`, `dataset` or `space`.
        choices: revision and path in the repository; more than one where the URL leaves open
            where the revision ends, the likeliest first.
    """

    repo: str
    kind: str
    choices: tuple[tuple[str, str], ...]


def parsed(url: str) -> HubFile | None:
    """Read a URL of a file on the hub; None for any other page of it."""
    raw = [part for part in urlsplit(url).path.split("/") if part]
    kind = _KINDS.get(raw[0], "model") if raw else "model"
    if kind != "model":
        raw = raw[1:]
    # `owner/name/resolve/...` or, for the hub's oldest models, `name/resolve/...`.
    at = next((place for place in (2, 1) if len(raw) > place + 2 and raw[place] in _VERBS), None)
    if at is None:
        return None
    repo, rest = "/".join(map(unquote, raw[:at])), raw[at + 1 :]
    named = _SPECIAL.match("/".join(map(unquote, rest)))
    first = unquote(rest[0])
    if "/" in first:
        lengths = [1]  # the slash was escaped: it is part of the revision
    elif named is not None:
        lengths = [named[0].count("/") + 1]
    else:
        lengths = list(range(1, min(_LONGEST_REVISION, len(rest) - 1) + 1))
    choices = tuple(
        ("/".join(map(unquote, rest[:length])), "/".join(map(unquote, rest[length:])))
        for length in lengths
        if length < len(rest)
    )
    return HubFile(repo, kind, choices) if choices else None


@dataclass(frozen=True, slots=True)
class _Found:
    repo: str
    kind: str
    revision: str
    path: str
    token: str | None


class _Left(Exception):
    """The download was cancelled; the way out of the library's reading loop."""


class HfSource:
    """Fetches files of the hub.

    Args:
        token: the operator's; the library's own (HF_TOKEN, a login) where None.
        endpoint: the hub; the library's own choice (HF_ENDPOINT) where None.
        cache_dir: the library's cache; its own choice (HF_HOME) where None.
    """

    def __init__(
        self,
        threads: Threads,
        *,
        token: str | None = None,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._threads = threads
        self._token = token
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._cache_dir = cache_dir

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,  # noqa: ARG002 - the library resumes by itself
        end: int | None = None,  # noqa: ARG002
        *,
        parts: bool = True,  # noqa: ARG002
    ) -> Remote:
        """Ask the hub; documented at the port."""
        file = parsed(url)
        if file is None:
            raise InputFailed(
                f"{redacted(url)} names no file of the hub",
                hint="take the link of the file's download button: .../resolve/main/name",
            )
        token = _token(auth) or self._token
        return await self._threads.call(lambda: self._ask(url, file, token))

    async def check_access(self, url: str, auth: Auth | None) -> None:
        """Ask the hub; documented at the port."""
        await self.stat(url, auth)

    async def release(self, remote: Remote) -> None:
        """Nothing is open between calls; documented at the port."""

    async def bring(self, remote: Remote, part: Path, tell: Callable[[int], None]) -> None:
        """Have the library fetch the file, then link it; documented at the port."""
        found = remote.handle
        assert isinstance(found, _Found)
        left = threading.Event()
        # Not waited for when cancelled: until its next step the library uses its own cache only.
        cached = await self._threads.call(lambda: self._cached(found, tell, left), abort=left.set)
        await placed(cached, part, tell, self._threads)

    def _ask(self, url: str, file: HubFile, token: str | None) -> Remote:
        """Find the revision by asking for each that the URL may mean. Blocking."""
        first: InputFailed | None = None
        for revision, path in file.choices:
            try:
                return self._meta(url, _Found(file.repo, file.kind, revision, path, token))
            except _Elsewhere as fault:
                first = first or fault.told
        assert first is not None
        raise first

    def _meta(self, url: str, found: _Found) -> Remote:
        hub = _library()
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
        commit = meta.commit_hash or found.revision
        return Remote(
            url=url,
            size=meta.size,
            etag=etag or None,
            ranges=False,
            sha256=etag if _SHA256.fullmatch(etag) else None,
            filename_hint=found.path.rpartition("/")[2],
            host=urlsplit(address).hostname or "huggingface.co",
            handle=_Found(found.repo, found.kind, commit, found.path, found.token),
        )

    def _cached(self, found: _Found, tell: Callable[[int], None], left: threading.Event) -> Path:
        """Have the file in the library's cache, and give where it lies. Blocking."""
        hub = _library()
        with _final(), _translated(found):
            cached = hub.hf_hub_download(
                found.repo,
                found.path,
                repo_type=found.kind,
                revision=found.revision,
                token=found.token,
                endpoint=self._endpoint,
                cache_dir=self._cache_dir,
                tqdm_class=_bar(tell, left),
            )
        return Path(cached).resolve()


class _Elsewhere(Exception):
    """There is no such revision, or no such file in it; the next choice may be right."""

    def __init__(self, told: InputFailed) -> None:
        super().__init__(told.message)
        self.told = told


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as fault:
        raise InputFailed(
            "links of Hugging Face need huggingface_hub",
            blame="image",
            hint="pip install 'comfyfn[huggingface]'",
        ) from fault
    return huggingface_hub


def _token(auth: Auth | None) -> str | None:
    if auth is None:
        return None
    if isinstance(auth, BearerAuth):
        return auth.token.get_secret_value()
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
                raise _Left
            self.here += int(n or 0)
            tell(max(0, self.here))
            return None

    return Bar


@contextlib.contextmanager
def _final() -> Iterator[None]:
    """Tell what is not there as such, where no other choice is left."""
    try:
        yield
    except _Elsewhere as fault:
        raise fault.told from fault


@contextlib.contextmanager
def _translated(found: _Found) -> Iterator[None]:
    """Turn the library's faults into ours."""
    from huggingface_hub import errors

    name = f"{found.path} of {found.repo} at {found.revision}"
    page = (
        f"https://huggingface.co/{'' if found.kind == 'model' else found.kind + 's/'}{found.repo}"
    )
    try:
        yield
    except (InputFailed, _Left):
        raise
    except errors.GatedRepoError as fault:
        raise AccessDenied(
            f"{found.repo} is gated: its licence has to be accepted first",
            hint=f"open {page}, accept the licence, and set HF_TOKEN or send `credentials` of "
            "type bearer of that account",
            details={"licence_page": page},
        ) from fault
    except errors.LocalEntryNotFoundError as fault:
        # Of the family of the next one, and yet: the hub was asked and did not answer.
        raise passing(f"{name}: the hub cannot be reached") from fault
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as fault:
        raise _Elsewhere(InputFailed(f"there is no {name}", details={"status": 404})) from fault
    except errors.RepositoryNotFoundError as fault:
        raise AccessDenied(
            f"{found.repo} is not there, or is private",
            hint=f"look at {page}; for a private one set HF_TOKEN or send `credentials` of type "
            "bearer",
        ) from fault
    except errors.HfHubHTTPError as fault:
        raise _http_fault(name, fault) from fault
    except errors.HFValidationError as fault:
        raise InputFailed(f"{found.repo} is no name of a repository") from fault
    except OSError as fault:
        if is_storing_fault(fault):
            raise
        raise passing(f"{name}: the hub cannot be reached") from fault
    except Exception as fault:
        # The library's HTTP client has changed twice; its faults have no common root.
        raise passing(f"{name}: the hub cannot be reached ({type(fault).__name__})") from fault


def _http_fault(name: str, fault: Any) -> InputFailed:
    status = int(getattr(fault.response, "status_code", 0) or 0)
    details = {"status": status}
    if status in {401, 403}:
        return AccessDenied(
            f"{name}: {status}",
            hint="set HF_TOKEN or send `credentials` of type bearer",
            details=details,
        )
    if status == 429 or status >= 500 or not status:
        return passing(f"{name}: {status}", **details)
    return InputFailed(f"{name}: {status}", details=details)
