"""`gcs_upload`: objects of Google Cloud Storage, by its resumable uploads.

Every file goes so, small ones too: its name, type and cache control are told first, and a broken
connection goes on where it ended. HMAC keys work in the way of S3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import orjson

from handler.credentials import BearerAuth, S3Auth
from handler.delivery.base import PutFailed, Stored, need, not_configured
from handler.delivery.http_put import Body
from handler.delivery.names import disposition
from handler.delivery.s3 import S3Uploader
from handler.delivery.strike import secrets_of
from handler.targets import S3Target

if TYPE_CHECKING:
    from handler.delivery.base import Progress, Upload, Whose
    from handler.delivery.google import GoogleTokens
    from handler.delivery.http_put import HttpPut, Reply
    from handler.delivery.s3_client import S3Clients
    from handler.inputs.address import AddressPolicy
    from handler.targets import GcsTarget
    from handler.transfer.threads import Threads

ENDPOINT = "https://storage.googleapis.com"
_RESUMES = 3
_RANGE = re.compile(r"bytes=0-(\d+)")
_HINTS = {
    401: "the token is not valid (any more)",
    403: "the right to create (and to replace) objects of this bucket is needed",
    404: "make the bucket first, or name another one",
}


class GcsUploader:
    """Uploads objects with a token.

    Args:
        http: for the endpoint, which is the operator's choice.
        tokens: of the operator's service account; None without one.
    """

    kind = "gcs_upload"
    waits = False

    def __init__(
        self,
        target: GcsTarget,
        http: HttpPut,
        *,
        tokens: GoogleTokens | None,
        endpoint: str = ENDPOINT,
    ) -> None:
        self._target = target
        self._http = http
        self._tokens = tokens
        self._endpoint = endpoint.rstrip("/")
        self.own_credentials = target.auth is not None
        self.secrets: tuple[str, ...] = secrets_of(target)

    def location(self, key: str) -> str:
        """Give the URL; documented at the port."""
        return f"gs://{self._target.bucket}/{key}"

    async def check(self) -> None:
        """Look for the credentials; documented at the port."""
        if self._target.presign_s:
            raise not_configured(
                self.kind,
                "presign_s needs HMAC keys to sign with",
                f'send {self.kind}.auth: {{"type": "s3", "access_key_id": ..., ...}}',
            )
        if self._target.auth is not None:
            return
        if self._tokens is None:
            raise not_configured(
                self.kind,
                "this worker is not set up for Google Cloud Storage",
                "the operator sets GOOGLE_APPLICATION_CREDENTIALS, or the request brings "
                f"{self.kind}.auth of type bearer, or s3 with HMAC keys",
            )
        need("google.auth", self.kind, "gcs")
        need("requests", self.kind, "gcs")

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Upload an object; documented at the port."""
        session = await self._begin(item)
        start, reply = 0, None
        for left in reversed(range(_RESUMES + 1)):
            try:
                reply = await self._send(session, item, start, progress)
                break
            except PutFailed as fault:
                if not fault.passing or not left:
                    raise
                start = await self._reached(session, item)
                if start == item.size:
                    break
        told = _json(reply)
        if told.get("size") not in {None, str(item.size)}:
            raise PutFailed(
                f"the object has {told['size']} bytes in place of {item.size}", passing=True
            )
        where = self.location(item.key)
        return Stored(where, where, str(told["etag"]) if told.get("etag") else None)

    async def _begin(self, item: Upload) -> httpx.URL:
        """Tell what is coming; give the URL that takes the bytes and needs no token."""
        target = self._target
        about = {"name": item.key, "contentType": item.content_type}
        if target.cache_control:
            about["cacheControl"] = target.cache_control
        if target.content_disposition:
            about["contentDisposition"] = disposition(target.content_disposition, item.name)
        path = f"/upload/storage/v1/b/{quote(target.bucket, safe='')}/o?uploadType=resumable"
        reply = await self._http.send(
            "POST",
            httpx.URL(self._endpoint + path),
            {
                **await self._auth(),
                "Content-Type": "application/json; charset=utf-8",
                "X-Upload-Content-Type": item.content_type,
                "X-Upload-Content-Length": str(item.size),
            },
            Body(content=orjson.dumps(about)),
        )
        location = reply.headers.get("location", "")
        if not reply.good:
            # Bucket and name are what the request says; later answers are about the session.
            raise _refused(reply, "place" if reply.status in {400, 404} else "store")
        if not location.startswith(f"{self._endpoint}/"):
            raise PutFailed("the store gave no place for the bytes", passing=True)
        return httpx.URL(location)

    async def _send(
        self, session: httpx.URL, item: Upload, start: int, progress: Progress
    ) -> Reply:
        headers = {"Content-Type": item.content_type}
        if start:
            headers["Content-Range"] = f"bytes {start}-{item.size - 1}/{item.size}"
        body = Body(item.path, item.size, start)
        reply = await self._http.send("PUT", session, headers, body, progress)
        if not reply.good:
            raise _refused(reply)
        return reply

    async def _reached(self, session: httpx.URL, item: Upload) -> int:
        """Ask how many bytes are there."""
        headers = {"Content-Range": f"bytes */{item.size}"}
        reply = await self._http.send("PUT", session, headers, Body())
        if reply.good:
            return item.size
        if reply.status != 308:
            raise _refused(reply)
        found = _RANGE.fullmatch(reply.headers.get("range", ""))
        return int(found[1]) + 1 if found else 0

    async def _auth(self) -> dict[str, str]:
        auth = self._target.auth
        if isinstance(auth, BearerAuth):
            return auth.headers()
        assert self._tokens is not None
        token = await self._tokens.token()
        self.secrets = secrets_of(self._target, token)
        return {"Authorization": f"Bearer {token}"}

    async def close(self) -> None:
        """Nothing of its own is open; documented at the port."""


def hmac_uploader(
    target: GcsTarget,
    clients: S3Clients,
    policy: AddressPolicy,
    threads: Threads,
    endpoint: str = ENDPOINT,
) -> S3Uploader:
    """Make the uploader for HMAC keys: the store speaks S3, too.

    Args:
        policy: for the endpoint, which is the operator's choice.
    """
    assert isinstance(target.auth, S3Auth)
    as_s3 = S3Target.model_validate(
        {
            "bucket": target.bucket,
            "endpoint": endpoint,
            "region": "auto",
            "auth": target.auth,
            "cache_control": target.cache_control,
            "content_disposition": target.content_disposition,
            "presign_s": target.presign_s,
        }
    )
    return S3Uploader(as_s3, clients, policy, threads, kind="gcs_upload", scheme="gs")


def _refused(reply: Reply, whose: Whose = "store") -> PutFailed:
    told = _json(reply).get("error")
    message = told.get("message") if isinstance(told, dict) else None
    return reply.refusal(_HINTS.get(reply.status), words=message, whose=whose)


def _json(reply: Reply | None) -> dict[str, object]:
    try:
        told = orjson.loads(reply.body) if reply is not None else None
    except orjson.JSONDecodeError:
        told = None
    return told if isinstance(told, dict) else {}
