"""What a caller sends to get at protected files, and for which URLs. Pure.

Secrets are kept as such: no text made of these models, and no fault of theirs, has one in it.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_PATTERN = 4096
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
# What makes the request itself: a caller's value there would change more than who asks.
_OURS = frozenset(
    (
        *("accept-encoding", "connection", "content-length", "host", "if-range", "range"),
        *("te", "transfer-encoding", "upgrade"),
    )
)


class _AuthModel(BaseModel):
    """The base of all: frozen, unknown keys ignored, nothing of the input in a fault's text."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        # It has a default for us only: a request must tell which auth it is.
        json_schema_extra=lambda schema: schema["required"].insert(0, "type"),
    )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def headers(self) -> dict[str, str]:
        """Give the request headers that this way needs, secrets in the clear."""
        return {}

    def query(self) -> dict[str, str]:
        """Give the query parameters that this way needs, secrets in the clear."""
        return {}


class BearerAuth(_AuthModel):
    """`Authorization: Bearer`."""

    type: Literal["bearer"] = "bearer"
    token: SecretStr

    def headers(self) -> dict[str, str]:
        """Give the Authorization header."""
        return {"Authorization": f"Bearer {self.token.get_secret_value()}"}

    @field_validator("token")
    @classmethod
    def _one_line(cls, value: SecretStr) -> SecretStr:
        return _header_safe(value)


class BasicAuth(_AuthModel):
    """`Authorization: Basic`."""

    type: Literal["basic"] = "basic"
    username: str
    password: SecretStr

    def headers(self) -> dict[str, str]:
        """Give the Authorization header, in UTF-8 as RFC 7617 advises."""
        pair = f"{self.username}:{self.password.get_secret_value()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}


class HeaderAuth(_AuthModel):
    """Any one header."""

    type: Literal["header"] = "header"
    header_name: str
    header_value: SecretStr

    def headers(self) -> dict[str, str]:
        """Give the header."""
        return {self.header_name: self.header_value.get_secret_value()}

    @field_validator("header_name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not _TOKEN.fullmatch(value) or value.lower() in _OURS:
            raise ValueError("no header name that credentials may be sent in")
        return value

    @field_validator("header_value")
    @classmethod
    def _one_line(cls, value: SecretStr) -> SecretStr:
        return _header_safe(value)


class QueryAuth(_AuthModel):
    """A parameter set on the URL of the request."""

    type: Literal["query"] = "query"
    query_param: Annotated[str, Field(min_length=1, max_length=256)]
    query_value: SecretStr

    def query(self) -> dict[str, str]:
        """Give the parameter."""
        return {self.query_param: self.query_value.get_secret_value()}


class S3Auth(_AuthModel):
    """Keys of an S3-compatible store, and where it is."""

    type: Literal["s3"] = "s3"
    # Empty ones would have boto3 look for keys by itself, and find the operator's.
    access_key_id: Annotated[str, Field(min_length=1)]
    secret_access_key: Annotated[SecretStr, Field(min_length=1)]
    session_token: SecretStr | None = None
    endpoint: str | None = None
    region: str | None = None


Auth = Annotated[
    BearerAuth | BasicAuth | HeaderAuth | QueryAuth | S3Auth, Field(discriminator="type")
]


class Credential(BaseModel):
    """For which URLs an auth is meant.

    Attributes:
        url_pattern: `*` is any run without a slash, `**` any run, `?` any one character; all
            else is literal, and the whole URL must match, its query included.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        json_schema_extra={"description": "For which URLs an auth is meant."},
    )

    url_pattern: Annotated[
        str,
        Field(
            min_length=1,
            max_length=_LONGEST_PATTERN,
            description="`*` is any run without a slash, `**` any run, `?` any one character; all "
            "else is literal, and the whole URL must match, its query included",
        ),
    ]
    auth: Auth

    def __repr__(self) -> str:
        return f"<Credential {self.auth.type}>"

    __str__ = __repr__


def auth_for(credentials: Iterable[Credential], url: str) -> Auth | None:
    """Give the auth of the first credential whose pattern is of this URL."""
    return next((one.auth for one in credentials if url_matches(one.url_pattern, url)), None)


def url_matches(pattern: str, url: str) -> bool:
    """Tell whether the whole URL is of the pattern.

    All ways through the pattern are followed at once, each a bit: a hostile pattern costs no more
    than its length times the URL's, where a regular expression would try for years.
    """
    if "*" not in pattern:
        return len(pattern) == len(url) and all(
            want in {"?", got} for want, got in zip(pattern, url, strict=True)
        )
    parts = re.findall(r"(?s)\*+|[^*]", pattern)
    any_run = slashless = any_one = 0
    literal: dict[str, int] = {}
    for place, part in enumerate(parts):
        bit = 1 << place
        if part == "*":
            slashless |= bit
        elif part.startswith("*"):
            any_run |= bit
        elif part == "?":
            any_one |= bit
        else:
            literal[part] = literal.get(part, 0) | bit
    runs = any_run | slashless
    states = 1 | ((runs & 1) << 1)
    for character in url:
        stays = any_run if character == "/" else runs
        moves = literal.get(character, 0) | any_one
        states = ((states & moves) << 1) | (states & stays)
        states |= (states & runs) << 1
        if not states:
            return False
    return bool(states >> len(parts) & 1)


def _header_safe(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or any(ord(character) < 32 or ord(character) > 255 for character in text):
        raise ValueError("empty, or with characters that no header may have")
    return value
