"""Objects of Google Cloud Storage: `gs://bucket/object`.

google-auth gets the token of a service account; the object comes over HTTP like any other file.
The storage library itself would bring a dozen packages for one GET. HMAC keys work as credentials
of type s3, since the store speaks S3, too. Without any, public objects can be read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from handler.credentials import Auth, BearerAuth, S3Auth
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.http_source import open_http, release_http
from handler.transfer.s3_source import S3Source

if TYPE_CHECKING:
    from pathlib import Path

    from handler.transfer.base import Body, Remote
    from handler.transfer.http_ask import Ask
    from handler.transfer.http_source import HttpSource
    from handler.transfer.threads import Threads

ENDPOINT = "https://storage.googleapis.com"
_URL = re.compile(r"(?s)gs://([a-z0-9][a-z0-9._-]{1,221}[a-z0-9])/(.+)")
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


class GcsSource:
    """Fetches `gs://` URLs.

    Args:
        http: for the endpoint, which is the operator's choice.
        key_file: of a service account, as JSON.
    """

    def __init__(
        self,
        http: HttpSource,
        threads: Threads,
        *,
        key_file: Path | None = None,
        endpoint: str = ENDPOINT,
    ) -> None:
        self._http = http
        self._threads = threads
        self._key_file = key_file
        self._endpoint = endpoint.rstrip("/")
        self._s3 = S3Source(http, http, threads)
        self._account: Any = None

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask for the object's beginning; documented at the port."""
        if isinstance(auth, S3Auth):
            return await self._s3.stat(_as_s3(url), self._hmac(auth), start, end, parts=parts)
        return await self._http.stat_ask(await self._ask(url, auth), url, start, end, parts=parts)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    def _hmac(self, auth: S3Auth) -> S3Auth:
        return auth.model_copy(update={"endpoint": self._endpoint, "region": auth.region or "auto"})

    async def _ask(self, url: str, auth: Auth | None) -> Ask:
        bucket, name = _parsed(url)
        ask = self._http.ask_as(f"{self._endpoint}/{bucket}/{quote(name)}", url)
        if auth is not None:
            return replace(ask, headers=auth.headers(), query=auth.query())
        if self._key_file is None:
            return ask
        token = await self._threads.call(self._token)
        return replace(ask, headers=BearerAuth.model_validate({"token": token}).headers())

    def _token(self) -> str:
        """Give a token that is still good. Blocking."""
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
            from google.oauth2 import service_account
        except ImportError as fault:
            raise InputFailed(
                "gs:// URLs with GOOGLE_APPLICATION_CREDENTIALS need google-auth and requests",
                blame="image",
                hint="pip install 'comfyfn[gcs]'",
            ) from fault
        try:
            if self._account is None:
                load: Any = service_account.Credentials.from_service_account_file
                self._account = load(str(self._key_file), scopes=[_SCOPE])
            if not self._account.valid:
                self._account.refresh(Request())
            return str(self._account.token)
        except (GoogleAuthError, OSError, ValueError) as fault:
            raise InputFailed(
                "Google gives no token for GOOGLE_APPLICATION_CREDENTIALS",
                blame="image",
                hint="the file must be the JSON key of a service account that may read the bucket",
            ) from fault


def _parsed(url: str) -> tuple[str, str]:
    found = _URL.fullmatch(url)
    if found is None:
        raise InputFailed(f"not a gs://bucket/object URL: {redacted(url)}")
    return found[1], found[2]


def _as_s3(url: str) -> str:
    bucket, name = _parsed(url)
    return f"s3://{bucket}/{name}"
