"""Objects of S3 and of stores that speak like it: `s3://bucket/key`.

boto3 finds the keys, in its own order, and signs; the request itself is made like any other over
HTTP. So parts, resume and the address policy are one code for all, and a file costs a third of the
CPU of boto3's own reader. The key is taken as it is written: nothing in it is an escape.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handler.credentials import Auth, S3Auth
from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.redact import redacted
from handler.masking import masked
from handler.transfer.http_source import open_http, release_http

if TYPE_CHECKING:
    from handler.transfer.base import Body, Remote
    from handler.transfer.http_ask import Ask
    from handler.transfer.http_source import HttpSource
    from handler.transfer.threads import Threads

_URL = re.compile(r"(?s)s3://([A-Za-z0-9][A-Za-z0-9._-]{1,254})/(.+)")
# Longer than any download may take; a link outlives no session token it was made with.
_VALID_S = 12 * 3600


class S3Source:
    """Fetches `s3://` URLs.

    Args:
        checked: for endpoints that callers name.
        free: for the operator's endpoint and Amazon's own.
        region, endpoint: where requests without any of their own go; the region is needed for
            them, the endpoint is Amazon's where None.
        reserved: see `is_reserved`.
    """

    def __init__(
        self,
        checked: HttpSource,
        free: HttpSource,
        threads: Threads,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        reserved: str = "",
    ) -> None:
        self._checked = checked
        self._free = free
        self._threads = threads
        self._region = region
        self._endpoint = endpoint
        self._reserved = reserved
        self._clients: dict[str, Any] = {}

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
        http, ask = await self._signed(url, auth, None)
        try:
            return await http.stat_ask(ask, url, start, end, parts=parts)
        except InputFailed as fault:
            http, ask = await self._signed(url, auth, _other_region(fault))
        return await http.stat_ask(ask, url, start, end, parts=parts)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    async def _signed(
        self, url: str, auth: Auth | None, region: str | None
    ) -> tuple[HttpSource, Ask]:
        found = _URL.fullmatch(url)
        if found is None:
            raise InputFailed(f"not an s3://bucket/key URL: {redacted(url)}")
        if auth is not None and not isinstance(auth, S3Auth):
            raise InputFailed(
                f"{redacted(url)} takes credentials of type s3, not {auth.type}",
                hint="access_key_id, secret_access_key, and endpoint and region where needed",
            )
        if auth is None and not self._region and not region:
            raise InputFailed(
                "this worker is not set up for S3",
                blame="image",
                hint="set AWS_REGION and the AWS keys, or send `credentials` of type s3",
            )
        if auth is None and is_reserved(self._reserved, found[1], found[2]):
            raise UrlNotAllowed(
                f"{redacted(url)} is where this worker keeps its state",
                hint="what a job gave is to be had at /jobs/{id}/outputs/{name}",
            )
        signed = await self._threads.call(lambda: self._presigned(found[1], found[2], auth, region))
        callers = auth is not None and auth.endpoint is not None
        http = self._checked if callers else self._free
        return http, http.ask_as(signed, url)

    def _presigned(self, bucket: str, key: str, auth: S3Auth | None, region: str | None) -> str:
        """Sign a GET. Blocking: boto3 may ask for keys that the machine is lent."""
        try:
            from botocore.exceptions import BotoCoreError
        except ImportError as fault:
            raise InputFailed(
                "s3:// URLs need boto3", blame="image", hint="pip install 'comfyfn[s3]'"
            ) from fault
        try:
            client = self._client(auth, region)
            signed = client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=_VALID_S
            )
        except (BotoCoreError, ValueError) as fault:
            raise InputFailed(f"s3://{bucket}/{key}: {_first_line(fault)}") from fault
        return str(signed)

    def _client(self, auth: S3Auth | None, region: str | None) -> Any:
        if auth is None:
            key = region or self._region or ""
            if key not in self._clients:
                self._clients[key] = _new_client(None, key, self._endpoint)
            return self._clients[key]
        if auth.endpoint and urlsplit(auth.endpoint).scheme not in {"http", "https"}:
            raise InputFailed("the endpoint of s3 credentials must be an http(s) URL")
        # Another endpoint than the caller's is the operator's only where they name none.
        return _new_client(
            auth,
            region or auth.region or self._region or "us-east-1",
            auth.endpoint or self._endpoint,
        )


def is_reserved(reserved: str, bucket: str, key: str) -> bool:
    """Tell whether an object lies where the operator's keys must not be lent to callers.

    Args:
        reserved: `bucket/prefix/`; "" for nothing.
    """
    # Some stores read a path as a disk would.
    place = posixpath.normpath(f"{bucket}/{key.lstrip('/')}")
    return bool(reserved) and f"{place}/".startswith(reserved)


def _new_client(auth: S3Auth | None, region: str, endpoint: str | None) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    keys: dict[str, Any] = {}
    if auth is not None:
        token = auth.session_token
        keys = {
            "aws_access_key_id": auth.access_key_id,
            "aws_secret_access_key": auth.secret_access_key.get_secret_value(),
            "aws_session_token": token.get_secret_value() if token else None,
        }
    session = boto3.session.Session(region_name=region, **keys)
    # Without any keys a public bucket can still be read.
    version = "s3v4" if session.get_credentials() else UNSIGNED
    config = Config(signature_version=version, s3={"addressing_style": "path"})
    return session.client("s3", endpoint_url=endpoint, config=config)


def _other_region(fault: InputFailed) -> str:
    """Give the region that a refusal tells the bucket is in; raise the refusal where it is none."""
    details = fault.details if isinstance(fault.details, dict) else {}
    region = details.get("region")
    if not isinstance(region, str) or details.get("status") not in {301, 307, 400}:
        raise fault
    return region


def _first_line(fault: Exception) -> str:
    # It may quote the endpoint that a caller gave, with user and password.
    return masked(str(fault).partition("\n")[0][:300])
