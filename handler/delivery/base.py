"""The port between a job's outputs and where they go, and the records that pass it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable
from urllib.parse import quote

from handler.errors import InputFailed, InvalidPayload, UploadFailed, UrlNotAllowed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from handler.inputs.address import AddressPolicy

Progress = Callable[[int], None]
"""Told how many bytes of the file have gone out so far, from any thread."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be stored.

    Attributes:
        name: the file's own name, no folder in it.
        size: in bytes.
        sha256: lower-case hex.
        key: where the target keeps it; with the target's prefix, and no escapes.
        place: in the order of the answer, from 0; what is not known yet is 0.
    """

    path: Path
    name: str
    content_type: str
    size: int
    sha256: str
    key: str
    place: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What an uploader tells of a file that is there.

    Attributes:
        url: what the caller is given; may be a link that lets anybody in.
        location: the same place, with nothing in it that lets anybody in.
        expires_at: when `url` stops to let anybody in, in Unix seconds; None where it does not.
    """

    url: str = field(repr=False)
    location: str
    etag: str | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that is where it should be.

    Attributes:
        target: the key of the payload that asked for it.
        url, location, etag, expires_at: as in `Stored`.
        seconds: the upload took, waits between tries included.
        started_ms, ended_ms: Unix time in milliseconds.
    """

    target: str
    url: str = field(repr=False)
    location: str
    bytes: int
    seconds: float
    etag: str | None = None
    started_ms: int = 0
    ended_ms: int = 0
    expires_at: int | None = None


Whose = Literal["store", "place", "worker"]
"""Who is concerned by a fault that does not pass: the store and whose credentials it was shown;
the place as the request names it, which is not there or takes no such file; or this worker."""


class PutFailed(Exception):
    """One try to store a file failed.

    Attributes:
        why: in the provider's words, for people; secrets are struck out by who tells it.
        passing: whether the next try may do.
        status: HTTP status of the refusal.
        code: the provider's word for it.
        whose: who could mend it.
        retry_after_s: how long the provider asks to wait.
    """

    def __init__(
        self,
        why: str,
        *,
        passing: bool,
        status: int | None = None,
        code: str | None = None,
        hint: str | None = None,
        whose: Whose = "store",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(why)
        self.why = why
        self.passing = passing
        self.status = status
        self.code = code
        self.hint = hint
        self.whose = whose
        self.retry_after_s = retry_after_s


class Uploader(Protocol):
    """Stores the files of one job at one target.

    Attributes:
        kind: the key of the payload.
        own_credentials: whether the request brought all that is shown to the store, so that a
            refusal is the caller's to mend.
        waits: whether it has to know all files, in the order of the answer, before the first goes.
        secrets: texts that must be in no message.
    """

    kind: str
    own_credentials: bool
    waits: bool

    @property
    def secrets(self) -> Sequence[str]:
        """Documented at the class."""
        ...

    def location(self, key: str) -> str:
        """Say for people where a key is; no secret in it."""
        ...

    async def check(self) -> None:
        """Make sure of all that can be known before the job runs.

        Raises:
            InvalidPayload: what it takes is not set up, not installed, or not allowed.
            UrlNotAllowed: the address policy refuses where it leads.
        """
        ...

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Store a file, in one try. What is at the key is replaced.

        Raises:
            PutFailed: it is not there.
            UrlNotAllowed: the address policy refuses where it leads by now.
            InvalidPayload: the request is at fault in a way that shows only with the outputs.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


@runtime_checkable
class Committer(Uploader, Protocol):
    """An uploader whose files appear all at once: `put` is not called."""

    async def stage(self, item: Upload, progress: Progress) -> None:
        """Bring the bytes of one file already.

        Raises:
            PutFailed: as `put`.
        """
        ...

    async def commit(self, items: Sequence[Upload]) -> list[Stored]:
        """Make the files appear, staged or not; results in the order given.

        Raises:
            PutFailed: none of them is there.
        """
        ...


def unreadable(fault: OSError | None = None) -> PutFailed:
    """Make the fault of an output that cannot be read here."""
    why = f": {fault.strerror}" if fault is not None else ""
    return PutFailed(f"the file cannot be read{why}", passing=False, whose="worker")


def shorter(there: int, size: int) -> PutFailed:
    """Make the fault of an output with less bytes here than it had, or more."""
    why = f"the file has {there} bytes in place of {size}"
    return PutFailed(why, passing=False, whose="worker")


def with_kept(hint: str | None, job_id: str, kept_s: int) -> str | None:
    """Add to a hint where the outputs of a job are, which are not stored."""
    if not kept_s:
        return hint
    job = f"/jobs/{quote(job_id, safe='')}"
    kept = (
        f"the outputs are kept for {kept_s} s: GET {job} says where, and POST {job}/redeliver "
        "brings them to a storage without another run"
    )
    return f"{hint}; {kept}" if hint else kept


def need(module: str, kind: str, extra: str) -> None:
    """Make sure that a provider's library is installed.

    Raises:
        InvalidPayload: it is not.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        found = False
    if not found:
        raise not_configured(
            kind, f"needs {module}", f"the operator installs it: pip install 'comfyfn[{extra}]'"
        )


def not_configured(kind: str, why: str, hint: str) -> InvalidPayload:
    """Make the answer to a target that this worker cannot serve as it is set up."""
    return InvalidPayload(f"{kind}: {why}", location=kind, hint=hint)


async def allowed(policy: AddressPolicy, host: str, port: int, location: str) -> list[str]:
    """Give the addresses of a host that the request names.

    Raises:
        UrlNotAllowed: by the policy.
        InvalidPayload: there is no such host.
        UploadFailed: DNS is silent.
    """
    try:
        return await policy.resolve(host, port)
    except UrlNotAllowed as fault:
        fault.location = fault.location or location
        raise
    except InputFailed as fault:
        if fault.retryable:
            raise UploadFailed(fault.message, location=location) from fault
        raise InvalidPayload(fault.message, location=location) from fault
