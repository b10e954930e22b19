"""`s3`: objects of Amazon's S3, and of stores that speak like it (R2, MinIO, B2)."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from handler.delivery.base import PutFailed, Stored, allowed, need, not_configured, unreadable
from handler.delivery.names import disposition
from handler.delivery.pinned import dialled
from handler.delivery.s3_client import S3Place, new_client
from handler.delivery.strike import secrets_of
from handler.transfer.s3_source import is_reserved

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.delivery.base import Progress, Upload
    from handler.delivery.s3_client import S3Clients
    from handler.inputs.address import AddressPolicy
    from handler.targets import S3Target
    from handler.transfer.threads import Threads

_PARTS_AT_ONCE = 4
_PORTS = {"http": 80, "https": 443}
_PASSING_CODES = re.compile(
    r"SlowDown|RequestTimeout|Throttl\w*|InternalError|ServiceUnavailable|TooManyRequests"
    r"|OperationAborted|RequestTimeTooSkewed|NoSuchUpload"
)
_HINTS = {
    "NoSuchBucket": "make the bucket first, or name another one",
    "AccessDenied": "the keys need the right s3:PutObject on this bucket and prefix",
    "InvalidAccessKeyId": "the access key is not known to this store",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired",
    "PermanentRedirect": "the bucket is in another region: set `region`",
}


# The bucket, its region and the key are what the request says.
_PLACE_CODES = frozenset(
    {
        *("NoSuchBucket", "InvalidBucketName", "KeyTooLongError", "PermanentRedirect"),
        *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    }
)


class _Left(Exception):
    """The upload was cancelled; the way out of the library's threads."""


class S3Uploader:
    """Puts objects: small ones in one request, large ones in parts.

    Args:
        policy: for endpoints that the request names.
        part_bytes: size of a part, and up to which a file goes in one request.
        reserved: see `is_reserved`.
    """

    waits = False

    def __init__(
        self,
        target: S3Target,
        clients: S3Clients,
        policy: AddressPolicy,
        threads: Threads,
        *,
        part_bytes: int = 16 << 20,
        reserved: str = "",
        kind: str = "s3",
        scheme: str = "s3",
    ) -> None:
        self.kind = kind
        self._target = target
        self._clients = clients
        self._policy = policy
        self._threads = threads
        self._part_bytes = part_bytes
        self._reserved = reserved
        self._scheme = scheme
        self._own: Any = None
        self._opening = asyncio.Lock()
        self.own_credentials = target.auth is not None
        self.secrets = secrets_of(target)

    def location(self, key: str) -> str:
        """Give the URL; documented at the port."""
        return f"{self._scheme}://{self._target.bucket}/{key}"

    async def check(self) -> None:
        """Look for library, region, keys, and a right endpoint; documented at the port."""
        need("boto3", self.kind, "s3")
        target = self._target
        if target.auth is None and target.callers_endpoint:
            raise not_configured(
                self.kind,
                "an endpoint of the request's own takes the request's own keys",
                f"send {self.kind}.auth with access_key_id and secret_access_key",
            )
        hint = (
            "the operator sets AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the "
            f"request brings {self.kind}.auth with access_key_id and secret_access_key"
        )
        if target.auth is None and not (self._clients.region or target.region):
            raise not_configured(self.kind, "this worker is not set up for S3", hint)
        place = await self._place()
        if target.auth is None and not await self._threads.call(
            lambda: self._clients.client(place)
        ):
            raise not_configured(self.kind, "this worker has no keys for S3", hint)

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Put an object; documented at the port."""
        if self._target.auth is None and is_reserved(self._reserved, self._target.bucket, item.key):
            raise PutFailed(
                "this worker keeps its state there", passing=False, hint="name another prefix"
            )
        client = await self._client()
        left = threading.Event()
        etag = await self._threads.call(
            lambda: self._put(client, item, progress, left), abort=lambda: self._leave(client, left)
        )
        location = self.location(item.key)
        seconds = self._target.presign_s
        if not seconds:
            return Stored(location, location, etag)
        expires_at = int(time.time()) + seconds
        link = await self._threads.call(lambda: self._link(client, item.key))
        return Stored(link, location, etag, expires_at)

    def _leave(self, client: Any, left: threading.Event) -> None:
        """End a put; the request's own store may be one that never says its last word."""
        left.set()
        if client is self._own:
            self._own = None  # the next try has a client of its own
            client.close()

    async def _place(self) -> S3Place:
        """Find the region and the store; one that the request names is held to the policy."""
        target, auth = self._target, self._target.auth
        region = target.region or (auth.region if auth else None) or self._clients.region
        named = target.callers_endpoint
        if named is None:
            return S3Place(region or "us-east-1", self._clients.endpoint)
        parts = urlsplit(named)
        port = parts.port or _PORTS[parts.scheme]
        addresses = await allowed(self._policy, parts.hostname or "", port, f"{self.kind}.endpoint")
        return S3Place(region or "us-east-1", named, dialled(addresses))

    async def _client(self) -> Any:
        async with self._opening:  # one at a time: a client that nobody knows is never closed
            if self._own is not None:
                return self._own
            place, auth = await self._place(), self._target.auth
            if auth is None:
                return await self._threads.call(lambda: self._clients.client(place))
            self._own = await self._threads.call(lambda: new_client(place, auth))
            return self._own

    def _put(
        self, client: Any, item: Upload, progress: Progress, left: threading.Event
    ) -> str | None:
        """Put an object and give its ETag. Blocking."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if item.size <= self._part_bytes:
                return self._put_whole(client, item, progress)
            return self._put_parts(client, item, progress, left)
        except ClientError as fault:
            raise _refused(fault) from fault
        except Boto3Error as fault:
            # upload_file makes a text of the refusal; what it was is in the context.
            cause = fault.__cause__ or fault.__context__
            if isinstance(cause, ClientError):
                raise _refused(cause) from fault
            raise PutFailed(type(fault).__name__, passing=True) from fault
        except BotoCoreError as fault:
            _tell(fault)
        except OSError as fault:
            raise unreadable(fault) from fault
        except _Left:
            raise PutFailed("the upload was ended", passing=False, whose="worker") from None

    def _put_whole(self, client: Any, item: Upload, progress: Progress) -> str | None:
        with item.path.open("rb") as file:
            answer = client.put_object(
                Bucket=self._target.bucket, Key=item.key, Body=file, **self._extra(item)
            )
        progress(item.size)
        return _etag(answer)

    def _put_parts(
        self, client: Any, item: Upload, progress: Progress, left: threading.Event
    ) -> str | None:
        from boto3.s3.transfer import TransferConfig

        client.upload_file(
            str(item.path),
            self._target.bucket,
            item.key,
            ExtraArgs=self._extra(item),
            Config=TransferConfig(
                multipart_threshold=self._part_bytes,
                multipart_chunksize=self._part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            ),
            Callback=_counting(progress, left),
        )
        return self._verified(client, item)

    def _verified(self, client: Any, item: Upload) -> str | None:
        """Ask for the object's size, where the keys are good for that."""
        from botocore.exceptions import ClientError

        try:
            head = client.head_object(Bucket=self._target.bucket, Key=item.key)
        except ClientError as fault:
            if _status(fault) in {401, 403, 405, 501}:
                return None  # keys that may write only
            raise
        if head["ContentLength"] != item.size:
            raise PutFailed(
                f"the object has {head['ContentLength']} bytes in place of {item.size}",
                passing=True,
            )
        return _etag(head)

    def _extra(self, item: Upload) -> dict[str, str]:
        target = self._target
        extra = {"ContentType": item.content_type}
        if target.cache_control:
            extra["CacheControl"] = target.cache_control
        if target.content_disposition:
            extra["ContentDisposition"] = disposition(target.content_disposition, item.name)
        return extra

    def _link(self, client: Any, key: str) -> str:
        """Sign a GET. Blocking: keys may be asked for anew."""
        from botocore.exceptions import BotoCoreError

        try:
            return str(
                client.generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self._target.bucket, "Key": key},
                    ExpiresIn=self._target.presign_s,
                )
            )
        except BotoCoreError as fault:
            _tell(fault)

    async def close(self) -> None:
        """Close the request's own client; documented at the port."""
        own, self._own = self._own, None
        if own is not None:
            await self._threads.call(own.close)


def _counting(progress: Progress, left: threading.Event) -> Callable[[int], None]:
    lock, sent = threading.Lock(), 0

    def count(more: int) -> None:
        nonlocal sent
        if left.is_set():
            raise _Left
        with lock:
            sent += more
            progress(max(0, sent))

    return count


def _refused(fault: Any) -> PutFailed:
    error = fault.response.get("Error", {})
    code, status = str(error.get("Code") or ""), _status(fault)
    return PutFailed(
        f"{status} {code}: {error.get('Message', '')}",
        passing=status in {408, 429} or status >= 500 or bool(_PASSING_CODES.fullmatch(code)),
        status=status,
        code=code or None,
        hint=_HINTS.get(code),
        whose="place" if code in _PLACE_CODES else "store",
    )


def _status(fault: Any) -> int:
    return int(fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _tell(fault: Exception) -> NoReturn:
    """Tell a fault of the library by its kind: its text may have addresses in it."""
    from botocore import exceptions

    if isinstance(fault, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        raise PutFailed(type(fault).__name__, passing=False) from fault
    if isinstance(fault, (exceptions.ParamValidationError, exceptions.InvalidRegionError)):
        raise PutFailed(type(fault).__name__, passing=False, whose="place") from fault
    raise PutFailed(
        f"the store cannot be reached ({type(fault).__name__})", passing=True
    ) from fault


def _etag(answer: Any) -> str | None:
    etag = answer.get("ETag")
    return str(etag).strip('"') if etag else None
