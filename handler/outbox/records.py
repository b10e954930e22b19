"""What the outbox takes, keeps and tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from handler.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from handler.settings import Settings

Outcome = Literal["delivered", "again", "dead"]


class OutboxFull(PlatformError):
    """The outbox holds as many letters, or bytes, as it may."""

    code = "outbox_full"
    status = 503


class OutboxFailed(PlatformError):
    """A letter cannot be kept on disk, or the outbox is closed."""

    code = "outbox_failed"
    status = 503


class PromiseGone(OutboxFailed):
    """The promise was kept or withdrawn before, or is not of this process."""

    code = "promise_gone"
    default_retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Something to be delivered.

    Attributes:
        url: where to; user and password in it become an Authorization header.
        body: JSON in UTF-8; a file is copied, and may go once `post` has returned.
        message_id: what receivers know it by, the same on every try; any text: in the header,
            what is not visible ASCII is percent-encoded.
        kind: what it tells, `prompt.complete`; for logs and lists.
        order_key: letters of one key to one host are sent one after the other; "" for any order.
        signed: by the secret of this letter, else by WEBHOOK_SECRET, else not at all.
        secret: the caller's own, `whsec_...` or bare base64.
        headers: further request headers; those that the outbox makes win.
    """

    url: str = field(repr=False)
    body: bytes | Path = field(repr=False)
    message_id: str
    kind: str
    order_key: str = ""
    signed: bool = True
    secret: SecretStr | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A letter in the outbox, without anything that is secret.

    Attributes:
        id: the outbox's name for it; names sort by the time of posting, but for letters that took
            the place of a promise: they have its name.
        to: scheme, host and port: a path or a query may be the receiver's secret.
        bytes: of the body.
        created: epoch seconds.
        since: epoch seconds, from when its age counts; later than `created` when sent again.
        tries: how often it was sent, since then.
        refusals: how often of these the receiver said that it will not have it.
        said: what came of the last try.
        dead: it is not tried any more.
        promise: it is not tried as long as the process lives that wrote it.
    """

    id: str
    message_id: str
    kind: str
    order_key: str
    to: str
    signed: bool
    bytes: int
    created: float
    since: float
    tries: int = 0
    refusals: int = 0
    said: str = ""
    dead: bool = False
    promise: bool = False

    @property
    def job_id(self) -> str:
        """The job that it tells of: posts of the older form, which are not signed, are numbered."""
        return self.message_id if self.signed else self.message_id.rpartition("-")[0]

    @property
    def age_key(self) -> tuple[bool, float, str]:
        """Sort by this for the order in which letters were posted; promises come last."""
        return self.promise, self.created, self.id


@dataclass(frozen=True, slots=True)
class Opened:
    """What a try needs of a letter, secrets in the clear.

    Attributes:
        body: the bytes, or the file that they are in, from `offset` on.
        bytes: their number.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(repr=False)
    body: bytes | Path = field(repr=False)
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a try, for records and figures.

    Attributes:
        outcome: `again` where another try follows.
        status: the HTTP status; None where no answer came.
        seconds: how long the try took.
    """

    letter: Posted
    outcome: Outcome
    status: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How patient the outbox is, and how much it holds. Times are in seconds.

    Attributes:
        timeout_s: for one try; a large body gets more.
        max_age_s: a letter that is older is dead after its next try.
        retries: tries after the first one; None: as many as its age allows.
        first_wait_s, longest_wait_s: between tries; doubled each time.
        longest_retry_after_s: the most that a receiver's Retry-After is heeded.
        refusal_wait_s: before the one further try of a letter that was refused.
        hurried_wait_s: the longest wait while the outbox is drained.
        hurried_tries: of one letter meanwhile; then it is left for the next start.
        watch_s: between looks for letters of processes that are gone.
        most: deliveries under way at once; most_a_host: of them to one host.
        max_letters, max_bytes: pending and dead ones together.
        tired_tries: a letter that has failed so often gives way where all of that is taken.
        host_share: of all that, what one host that fails may hold then.
    """

    timeout_s: float = 20.0
    max_age_s: float = 86400.0
    retries: int | None = None
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0
    longest_retry_after_s: float = 3600.0
    refusal_wait_s: float = 30.0
    hurried_wait_s: float = 2.0
    hurried_tries: int = 4
    watch_s: float = 5.0
    most: int = 64
    most_a_host: int = 8
    max_letters: int = 10_000
    max_bytes: int = 1 << 30
    tired_tries: int = 3
    host_share: float = 0.5

    @classmethod
    def of(cls, settings: Settings) -> Terms:
        """Take what the operator may set."""
        return cls(
            timeout_s=settings.webhook_timeout_s,
            max_age_s=settings.webhook_max_age_s,
            retries=settings.prompt_webhook_retries,
            max_letters=settings.outbox_max,
            max_bytes=settings.outbox_max_mb << 20,
        )


def outbox_folder(settings: Settings) -> Path:
    """Tell where the outbox is."""
    return settings.state_folder / "outbox"
