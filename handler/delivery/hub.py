"""`hf_upload`: repositories of Hugging Face. All files of a job make one commit."""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import TYPE_CHECKING, Any

from handler.delivery.base import PutFailed, Stored, need, not_configured, unreadable
from handler.delivery.names import segments
from handler.delivery.strike import secrets_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from handler.delivery.base import Progress, Upload
    from handler.targets import HfTarget
    from handler.transfer.threads import Threads

_HUB = "https://huggingface.co"
_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


class HubUploader:
    """Uploads large files as they come, and commits all in the end.

    Args:
        token: the operator's; None without HF_TOKEN.
        endpoint: the hub; huggingface.co where None.
        message: of the commit.
    """

    kind = "hf_upload"
    waits = False

    def __init__(
        self,
        target: HfTarget,
        threads: Threads,
        *,
        token: str | None,
        endpoint: str | None = None,
        message: str = "Add results",
    ) -> None:
        self._target = target
        self._threads = threads
        self.own_credentials = target.auth is not None
        self._token = target.auth.token.get_secret_value() if target.auth else token
        self._endpoint = (endpoint or _HUB).rstrip("/")
        self._message = message
        self._additions: dict[str, Any] = {}
        self._api: Any = None
        self._lock = threading.Lock()
        self.secrets = secrets_of(*filter(None, (target, self._token)))

    def location(self, key: str) -> str:
        """Give the URL; documented at the port."""
        target = self._target
        revision = segments(target.revision).replace("/", "%2F")
        page = f"{self._endpoint}/{_PREFIXES[target.repo_type]}{target.repo}"
        return f"{page}/resolve/{revision}/{segments(key)}"

    async def check(self) -> None:
        """Look for library and token; documented at the port."""
        need("huggingface_hub", self.kind, "huggingface")
        if not self._token:
            raise not_configured(
                self.kind,
                "this worker has no token for Hugging Face",
                "the operator sets HF_TOKEN, or the request brings hf_upload.auth: "
                '{"type": "bearer", "token": ...}',
            )

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Commit one file; documented at the port."""
        await self.stage(item, progress)
        return (await self.commit([item]))[0]

    async def stage(self, item: Upload, progress: Progress) -> None:
        """Bring the bytes of a file that the hub keeps apart from the commit."""
        await self._threads.call(lambda: self._stage(item))
        progress(item.size)

    async def commit(self, items: Sequence[Upload]) -> list[Stored]:
        """Make the commit; documented at the port."""
        oid = await self._threads.call(lambda: self._commit(items))
        places = [self.location(item.key) for item in items]
        return [Stored(place, place, oid) for place in places]

    def _stage(self, item: Upload) -> None:
        """Upload the bytes, where they are not part of the commit itself. Blocking."""
        with _told():
            addition = self._addition(item)
            self._client().preupload_lfs_files(
                self._target.repo,
                [addition],
                repo_type=self._target.repo_type,
                revision=self._target.revision,
                free_memory=False,
            )

    def _commit(self, items: Sequence[Upload]) -> str | None:
        """Commit what was staged, and upload what was not. Blocking."""
        with _told():
            made = self._client().create_commit(
                self._target.repo,
                [self._addition(item) for item in items],
                commit_message=self._message,
                repo_type=self._target.repo_type,
                revision=self._target.revision,
            )
        return str(made.oid) if made.oid else None

    def _addition(self, item: Upload) -> Any:
        import huggingface_hub

        if not item.path.is_file():
            raise unreadable()
        with self._lock:
            if item.key not in self._additions:
                self._additions[item.key] = huggingface_hub.CommitOperationAdd(
                    item.key, str(item.path)
                )
            return self._additions[item.key]

    def _client(self) -> Any:
        import huggingface_hub
        from huggingface_hub import constants

        utils: Any = importlib.import_module("huggingface_hub.utils")
        with self._lock:
            if self._api is None:
                if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
                    utils.disable_progress_bars()  # they would be drawn into the log
                self._api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token)
            return self._api

    async def close(self) -> None:
        """The library's connections are its own; documented at the port."""
        self._additions.clear()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn the library's faults into ours."""
    from huggingface_hub import errors

    try:
        yield
    except PutFailed:
        raise
    except errors.RepositoryNotFoundError as fault:
        raise PutFailed(
            "there is no such repository, or the token cannot see it",
            passing=False,
            status=_status(fault),
            hint="make the repository first, and give the token the right to write to it",
            whose="place",
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise PutFailed(
            "there is no such revision", passing=False, status=404, whose="place"
        ) from fault
    except errors.HfHubHTTPError as fault:
        raise _refused(fault) from fault
    except errors.HFValidationError as fault:
        raise PutFailed(
            "the hub takes no such name of a repository or a file", passing=False, whose="place"
        ) from fault
    except RuntimeError as fault:
        # What went wrong with one file's bytes is wrapped.
        if isinstance(fault.__cause__, errors.HfHubHTTPError):
            raise _refused(fault.__cause__) from fault
        raise _unreached(fault.__cause__ or fault) from fault
    except Exception as fault:
        # The library's HTTP client has changed twice; its faults have no common root.
        raise _unreached(fault) from fault


def _unreached(fault: BaseException) -> PutFailed:
    return PutFailed(f"the hub cannot be reached ({type(fault).__name__})", passing=True)


def _refused(fault: Any) -> PutFailed:
    status = _status(fault)
    server = str(getattr(fault, "server_message", None) or "")
    hint = "the token needs the right to write to this repository" if status in {401, 403} else None
    return PutFailed(
        f"{status} {server}".strip(),
        # 409 and 412: another commit came between.
        passing=status in {0, 408, 409, 412, 429} or status >= 500,
        status=status or None,
        hint=hint,
    )


def _status(fault: Any) -> int:
    return int(getattr(fault.response, "status_code", 0) or 0)
