"""Where a caller wants the outputs to go, as the request says it. Pure.

Each provider is one key of the payload; several in one request are all honoured. What
comfyui-api's objects hold is there under its names and defaults; the rest is beyond it. Secrets,
and URLs that are one, are kept as such: no text made of these models has them.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from handler.credentials import Auth, BearerAuth, HeaderAuth, S3Auth
from handler.graph.nearest import nearest
from handler.records import TARGET_KINDS

KEY_FIELDS = ("prefix", "id", "node", "filename", "stem", "ext", "sha256")
"""What a `key` may name in braces."""

LONGEST_LINK_S = 7 * 86400
_MISSPELT = 0.8
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has control characters")
    return text


def _template(text: str) -> str:
    """Check a template of names: fields of ours in braces, and nothing else of format strings."""
    for _, name, spec, conversion in Formatter().parse(text):
        if name is not None and (name not in KEY_FIELDS or spec or conversion):
            raise ValueError(f"knows {', '.join('{' + field + '}' for field in KEY_FIELDS)}")
    return _line(text)


def _endpoint(text: str) -> str:
    parts = _http_url(text)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("is an http(s) URL without user, query and fragment")
    return text.rstrip("/")


def _http_url(text: str) -> SplitResult:
    try:
        parts = urlsplit(_line(text))
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is no http:// or https:// URL")
    return parts


def _one_path(text: str) -> str:
    if any(part in {".", ".."} for part in text.split("/")):
        raise ValueError("has a `.` or `..` in it")
    return _line(text)


Line = Annotated[str, Field(max_length=1024), AfterValidator(_line)]
Template = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_template)]
Endpoint = Annotated[str, Field(max_length=2048), AfterValidator(_endpoint)]
Folder = Annotated[str, Field(max_length=1024), AfterValidator(_one_path)]
LinkSeconds = Annotated[int, Field(ge=1, le=LONGEST_LINK_S)]


class Target(BaseModel):
    """What all have.

    Attributes:
        kind: the key of the payload.
        is_async: `async`: the answer does not wait for this upload.
        key_template: `key`: where each output goes, in place of prefix and file name.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )
    kind: ClassVar[str] = ""

    is_async: bool = Field(False, alias="async")
    key_template: Template | None = Field(None, alias="key")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    @property
    def prefix_text(self) -> str:
        """What stands before the file name where no template is given."""
        return ""

    def public(self) -> dict[str, Any]:
        """Give what an answer may repeat: the contract's fields with defaults, no secrets."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"auth"})

    @model_validator(mode="before")
    @classmethod
    def _tell_misspelt(cls, raw: Any) -> Any:
        """Unknown keys are ignored as comfyui-api does, unless one is nearly a known one."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in [key for key in raw if key not in known] if isinstance(raw, dict) else []:
            near = nearest(str(key), known, limit=1, cutoff=_MISSPELT)
            if near and str(key) not in cls.model_fields:
                raise ValueError(f"there is no key {str(key)[:80]}: did you mean {near[0]}?")
        return raw


def _key_inside(target: Target) -> None:
    """Refuse a key that leads out of its folder, or names no file, whatever is filled in."""
    if target.key_template is None:
        return
    filled = dict.fromkeys(KEY_FIELDS, "x") | {"prefix": target.prefix_text}
    try:
        _one_path(target.key_template.format(**filled))
    except ValueError as fault:
        raise ValueError(f"key {fault}") from None
    if not target.key_template.strip("/"):
        raise ValueError("key names no file")


class _Stored(Target):
    """An object store: what is told of each object.

    Attributes:
        presign_s: give a URL that anybody can fetch for so many seconds.
    """

    cache_control: Line | None = None
    content_disposition: Literal["inline", "attachment"] | None = None
    presign_s: LinkSeconds | None = None


class S3Target(_Stored):
    """`s3`: Amazon's, or a store that speaks like it (R2, MinIO, B2)."""

    kind = "s3"

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")]
    prefix: Line = ""
    endpoint: Endpoint | None = None
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    auth: S3Auth | None = None

    @property
    def prefix_text(self) -> str:
        """Documented at `Target`."""
        return self.prefix

    @field_validator("auth")
    @classmethod
    def _fit(cls, auth: S3Auth | None) -> S3Auth | None:
        if auth is not None and auth.endpoint:
            _endpoint(auth.endpoint)
        return auth

    @property
    def callers_endpoint(self) -> str | None:
        """The store that the request names, on the target or in its credentials."""
        return self.endpoint or (self.auth.endpoint if self.auth else None) or None


class AzureAuth(BaseModel):
    """An Azure account in one of the operator's four forms, or with a token of its identity."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    type: Literal["azure"] = "azure"
    connection_string: SecretStr | None = None
    account: Annotated[str, Field(pattern=r"^[a-z0-9]{3,24}$")] | None = None
    key: SecretStr | None = None
    sas_token: SecretStr | None = None

    def __repr__(self) -> str:
        return "<AzureAuth>"

    __str__ = __repr__

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.connection_string and not (self.account and (self.key or self.sas_token)):
            raise ValueError("needs connection_string, or account with key or sas_token")
        return self


class AzureTarget(_Stored):
    """`azure_blob_upload`: a container of Azure's."""

    kind = "azure_blob_upload"

    container: Annotated[str, Field(pattern=r"^(\$root|\$web|[a-z0-9][a-z0-9-]{1,62})$")]
    blob_prefix: Line = ""
    endpoint: Endpoint | None = None
    auth: AzureAuth | None = None

    @property
    def prefix_text(self) -> str:
        """Documented at `Target`."""
        return self.blob_prefix.removeprefix("/")


class HfTarget(Target):
    """`hf_upload`: a repository of Hugging Face; all outputs of a job make one commit."""

    kind = "hf_upload"

    repo: Annotated[str, Field(pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$")]
    repo_type: Literal["model", "dataset", "space"] = "model"
    revision: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_one_path)] = (
        "main"
    )
    directory: Folder = "/"
    auth: BearerAuth | None = None

    @model_validator(mode="after")
    def _inside(self) -> Self:
        _key_inside(self)
        return self

    @property
    def prefix_text(self) -> str:
        """Documented at `Target`."""
        folder = "/".join(part for part in self.directory.split("/") if part)
        return f"{folder}/" if folder else ""


class HttpTarget(Target):
    """`http_upload`: any server that takes a file at a URL."""

    kind = "http_upload"

    url_prefix: SecretStr
    method: Literal["PUT", "POST"] | None = None
    auth: Auth | None = None

    @field_validator("url_prefix")
    @classmethod
    def _plain(cls, value: SecretStr) -> SecretStr:
        parts = _http_url(value.get_secret_value())
        if parts.query or parts.fragment:
            raise ValueError(
                "has no query and no fragment, since the file name comes after it; `auth` of type "
                "query sets a parameter, `presigned` takes whole URLs"
            )
        return value

    @field_validator("auth")
    @classmethod
    def _fit(cls, auth: Auth | None) -> Auth | None:
        if auth is not None and auth.type == "s3":
            raise ValueError("is of type s3; a store that speaks S3 is named by `s3`")
        return auth

    def public(self) -> dict[str, Any]:
        """Documented at `Target`; the URL without user and password."""
        parts = urlsplit(self.url_prefix.get_secret_value())
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return super().public() | {"url_prefix": plain}


class GcsTarget(_Stored):
    """`gcs_upload`: a bucket of Google Cloud Storage."""

    kind = "gcs_upload"

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]$")]
    prefix: Line = ""
    auth: Annotated[BearerAuth | S3Auth, Field(discriminator="type")] | None = None

    @property
    def prefix_text(self) -> str:
        """Documented at `Target`."""
        return self.prefix


class PresignedTarget(Target):
    """`presigned`: URLs made by the caller that take one PUT each; no secret of theirs is needed.

    Attributes:
        url, urls: one for the only output, or one for each in the order of the answer.
        content_type: what the URL was signed for; "": none is sent; None: the output's own.
        headers: that the URL was signed with, beside the content type.
    """

    kind = "presigned"

    url: SecretStr | None = None
    urls: Annotated[list[SecretStr], Field(max_length=4096)] | None = None
    content_type: Line | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)

    @property
    def all_urls(self) -> list[str]:
        """Give the URLs in order."""
        urls = [self.url] if self.url else self.urls or []
        return [url.get_secret_value() for url in urls]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.url is None) == (not self.urls):
            raise ValueError("needs either url or urls")
        if self.key_template is not None:
            raise ValueError("takes no key: the URLs say where the files go")
        for url in self.all_urls:
            _http_url(url)
        return self

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            try:
                HeaderAuth(header_name=name, header_value=value)
            except ValidationError as fault:
                raise ValueError(f"{name[:80]}: {fault.errors()[0]['msg']}") from None
        return headers

    def public(self) -> dict[str, Any]:
        """Documented at `Target`; how many URLs there were is all that is told of them."""
        return {"async": self.is_async, "urls": len(self.all_urls)}


class VolumeTarget(Target):
    """`volume`: a folder of a mounted disk, among those that ALLOW_VOLUMES names."""

    kind = "volume"

    path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_one_path)]
    prefix: Folder = ""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        _key_inside(self)
        return self

    @property
    def prefix_text(self) -> str:
        """Documented at `Target`."""
        return self.prefix


class Targets(BaseModel):
    """The part of a payload that says where outputs go."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    s3: S3Target | None = None
    hf_upload: HfTarget | None = None
    azure_blob_upload: AzureTarget | None = None
    http_upload: HttpTarget | None = None
    gcs_upload: GcsTarget | None = None
    presigned: PresignedTarget | None = None
    volume: VolumeTarget | None = None

    def targets(self) -> list[Target]:
        """Give those that are named. The first one's URLs are an answer's `images`."""
        named = (getattr(self, kind) for kind in TARGET_KINDS)
        return [target for target in named if target is not None]
