"""What is remembered of a job, and how it is written. Pure.

A record holds what a caller may be told again: never the payload, never a secret of it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

import orjson

FORMAT = 1
FINAL = frozenset({"succeeded", "failed", "cancelled"})
EVENTS_TAIL = 32
# Whoever sends the same job again may send it with fresh credentials.
_SECRET_KEYS = frozenset({"credentials", "extra_data", "webhook_secret"})
_URL_KEYS = frozenset({"webhook", "webhook_v2", "url_prefix"})
_AS_THEY_ARE = frozenset({"prompt", "webhook_extra"})
# Of an auth, what says where: the same name at another store is another file.
_PLACES = ("endpoint", "account")
# Of a URL's query, what signs it; the rest may say where it leads.
_SIGNING = re.compile(
    r"(?i)(?:x-(?:amz|goog|oss|cos|obs|tos)-.*|q-.*|sig|signature|expires|policy|token"
    r"|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id|security-token"
    r"|s[etvrps]|sip|spr|srt|sdd|ss|ses|skoid|sktid|ske|skt|sks|skv|saoid|suoid|scid)"
)
_SIGNED = re.compile(r"(?i)[?&](?:x-\w+-signature|q-signature|signature|sig|token)=")
_PLACES_IN_TEXT = re.compile(r"(?i)\b(?:AccountName|BlobEndpoint|EndpointSuffix)=[^;]*")


class BrokenRecord(Exception):
    """The bytes are no record that this version can read."""


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One output of a finished job.

    Attributes:
        name: unique in the job; `/jobs/{id}/outputs/{name}`.
        mime, bytes, sha256: of the file; bytes of a text in UTF-8.
        facts: what else the answer tells: node, kind, width, height, a short text.
        url: where an upload brought it; may be a link that lets anybody in.
        kept: whether its bytes are in the state's own store.
    """

    name: str
    mime: str
    bytes: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    url: str | None = field(default=None, repr=False)
    kept: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is a text that the record itself has to its end."""
        text = self.facts.get("text")
        return text is not None and len(text.encode(errors="replace")) >= self.bytes


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as all workers may know it. Times are Unix seconds.

    Attributes:
        id: the caller's, or drawn. There is one record for an id: a later run takes its place.
        uid: names the run; unguessable.
        instance: the id of the worker that runs it.
        worker: its name, for people.
        phase: a value of `Phase`; the last three are final.
        digest: of the payload, see `payload_digest`.
        key: the idempotency key with its scope, where there is one.
        error: the public envelope.
        events: the newest ones that tell what happened, oldest first.
        redelivery: how the newest one ended.
        webhooks: what came of each, by the request's keys.
    """

    id: str
    uid: str
    instance: str
    created: float
    worker: str = ""
    adapter: str = ""
    phase: str = "received"
    started: float | None = None
    finished: float | None = None
    digest: str = ""
    key: str | None = field(default=None, repr=False)
    error: dict[str, Any] | None = None
    outputs: tuple[OutputRecord, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)
    events: tuple[dict[str, Any], ...] = ()
    redelivery: dict[str, Any] | None = field(default=None, repr=False)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.phase in FINAL

    @property
    def retryable(self) -> bool:
        """Whether it failed or was never begun, and sending the same again may do."""
        return self.phase != "succeeded" and bool(self.error and self.error.get("retryable"))

    def output(self, name: str) -> OutputRecord | None:
        """Find an output by its name."""
        return next((one for one in self.outputs if one.name == name), None)

    def told(self, event: dict[str, Any]) -> JobRecord:
        """Give the record with one more event; the oldest goes where there are many."""
        return replace(self, events=(*self.events, event)[-EVENTS_TAIL:])


_FIELDS = fields(JobRecord)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has an idempotency key.

    Attributes:
        mine: whether it was free and is the asker's now.
        id, uid, digest: of the run that has it.
        at: when it was claimed, in Unix seconds.
        version: goes back with `Keys.take`.
    """

    mine: bool
    id: str
    uid: str
    digest: str
    at: float
    version: str = ""


def encode(record: JobRecord) -> bytes:
    """Write a record as JSON; lone surrogates and keys that are no texts do not stop it."""
    told = {"format": FORMAT, **{spec.name: getattr(record, spec.name) for spec in _FIELDS}}
    try:
        return orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # ComfyUI's JSON may hold lone surrogates, which no UTF-8 has
        told = {"format": FORMAT, **asdict(record)}
        return orjson.dumps(_sound(told), option=orjson.OPT_NON_STR_KEYS)


def decode(body: bytes) -> JobRecord:
    """Read a record; keys of a later version of the same format are passed over.

    Raises:
        BrokenRecord: it is none, or of another format.
    """
    try:
        told = orjson.loads(body)
        if told["format"] != FORMAT:
            raise BrokenRecord(f"of format {told['format']!r}, known is {FORMAT}")
        facts = {spec.name: told[spec.name] for spec in fields(JobRecord) if spec.name in told}
        known = {spec.name for spec in fields(OutputRecord)}
        facts["outputs"] = tuple(
            OutputRecord(**{name: value for name, value in one.items() if name in known})
            for one in facts.get("outputs", ())
        )
        facts["events"] = tuple(facts.get("events", ()))
        return JobRecord(**facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenRecord(type(error).__name__) from error


def payload_digest(payload: dict[str, Any]) -> str:
    """Give the SHA-256 of a payload without its secrets, the same in whatever order its keys are.

    Args:
        payload: the decoded JSON body, as it came.

    Raises:
        ValueError: it is nested too deeply.
    """
    bare = {
        key: value if key in _AS_THEY_ARE else _bare(value)
        for key, value in payload.items()
        if key not in _SECRET_KEYS
    }
    for key in _URL_KEYS & bare.keys():
        bare[key] = _without_user(bare[key])
    if isinstance(bare.get("presigned"), dict):
        bare["presigned"] = _unsigned(bare["presigned"])
    sources = payload.get("credentials")
    places = [_bare(one) for one in sources] if isinstance(sources, list) else []
    if any(isinstance(one, dict) and one.get("auth") for one in places):
        bare["credentials"] = places
    try:
        try:
            told = orjson.dumps(bare, option=orjson.OPT_SORT_KEYS)
        except TypeError as error:  # seeds of many bits, texts that are no Unicode
            if "ecursion" in str(error):  # what follows would take seconds, and come to the same
                raise
            told = orjson.dumps(_sound(bare), option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        raise ValueError("nested too deeply") from error
    return hashlib.sha256(told).hexdigest()


def _bare(value: Any) -> Any:
    """Give an upload object, or a credential, with what says where it leads, and not for whom."""
    if not isinstance(value, dict):
        return value
    bare = {key: one for key, one in value.items() if key != "auth"}
    for key in _URL_KEYS & bare.keys():
        bare[key] = _without_user(bare[key])
    auth = value.get("auth")
    if isinstance(auth, dict):
        places = {name: auth[name] for name in _PLACES if auth.get(name)}
        text = auth.get("connection_string")
        if isinstance(text, str):
            places["connection"] = sorted(_PLACES_IN_TEXT.findall(text))
        if places:
            bare["auth"] = places
    return bare


def _without_user(url: Any) -> Any:
    """Give a URL without user and password; anything else as it is."""
    parts = _split(url) if isinstance(url, str) and "@" in url else None
    if parts is None or "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _unsigned(target: dict[str, Any]) -> dict[str, Any]:
    """Give `presigned` without what its URLs were signed with."""
    bare = {key: value for key, value in target.items() if key != "headers"}
    if "url" in bare:
        bare["url"] = _place(bare["url"])
    if isinstance(bare.get("urls"), list):
        bare["urls"] = [_place(url) for url in bare["urls"]]
    return bare


def _place(url: Any) -> Any:
    url = _without_user(url)
    parts = _split(url) if isinstance(url, str) else None
    if parts is None or not _SIGNED.search(f"?{parts.query}"):
        return url
    query = parse_qsl(parts.query, keep_blank_values=True)
    left = sorted(f"{name}={value}" for name, value in query if not _SIGNING.fullmatch(name))
    return parts._replace(query="&".join(left), fragment="").geturl()


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_sound(str(key)): _sound(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return str(value)  # seeds may be of more bits than JSON's encoder takes
    return value
